"""What both views show: patches counted point by point."""

import numpy as np
import pytest
import torch

from mmsalmask.errors import InputError
from mmsalmask.saliency import Crops, OverlapSaliency


def reference(localizer, views, crops, grid, points=400):
    found = np.zeros((len(views), *grid))
    for i, (box, flip) in enumerate(zip(crops.box.tolist(), crops.flip.tolist(), strict=True)):
        other = crops.box[(i + len(views) // 2) % len(views)].tolist()
        for row in range(grid[0]):
            for column in range(grid[1]):
                inside = []
                for cells, place, low, turned in ((1, column, 0, flip), (0, row, 1, False)):
                    share = (place + (np.arange(points) + 0.5) / points) / grid[cells]
                    share = 1 - share if turned else share
                    at = box[low] + share * (box[low + 2] - box[low])
                    inside.append(((at >= other[low]) & (at <= other[low + 2])).mean())
                found[i, row, column] = inside[0] * inside[1]
    return found


def test_the_part_that_the_key_shows_is_salient_in_the_query():
    box = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.5, 0.0, 1.0, 1.0]])
    for flip, expected in ((False, [0.0, 1.0]), (True, [1.0, 0.0])):
        crops = Crops(torch.zeros(2).long(), box, torch.tensor([flip, False]))
        found = OverlapSaliency().locate(torch.zeros(2, 3, 8, 8), crops, (1, 2))
        assert found[0, 0].tolist() == expected
        assert found[1, 0].tolist() == [1.0, 1.0]


def test_without_crops_it_is_refused():
    with pytest.raises(InputError, match="where each view was cut from"):
        OverlapSaliency().locate(torch.zeros(2, 3, 8, 8), None, (1, 2))
