"""The centre, whatever an image shows: the distances by hand."""

import numpy as np
import references
import torch

from mmsalmask.saliency import CentrePriorSaliency


def reference(localizer, views, crops, grid):
    height, width = localizer.map_size
    prior = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            down, right = 2 * (i + 0.5) / height - 1, 2 * (j + 0.5) / width - 1
            prior[i, j] = -(down**2) - right**2
    return np.stack([references.pool(prior, grid)] * len(views))


def test_the_centre_is_salient_and_the_corners_are_least():
    map_ = CentrePriorSaliency((5, 7))(torch.randn(2, 3, 30, 40))
    assert map_.shape == (2, 5, 7)
    assert torch.equal(map_[0], map_[1])
    assert map_[0].argmax() == 17
    assert map_[0, 2, 3] == 0
    assert map_[0].argmin() == 0
    assert map_[0, 0, 0] > -2
