"""A masked patch shows a patch of its own view's background: one pixel at a time."""

import numpy as np
import pytest
import torch
from registered import masker_for, some_views

from mmsalmask.errors import InputError
from mmsalmask.masking import BackgroundPatches, View


def reference(strategy, views, mask, where, role, generator):
    (number, rows, columns), (height, width) = where.shape, views.shape[2:]
    drawn = torch.rand(number, rows * columns, generator=generator).numpy()
    top = [y for y in range(height) if y * rows // height != (y - 1) * rows // height] + [height]
    left = [x for x in range(width) if x * columns // width != (x - 1) * columns // width] + [width]
    out = views.copy()
    for image, image_mask, front, draws, seen in zip(out, mask, where, drawn, views, strict=True):
        cells = [(row, column) for row in range(rows) for column in range(columns)]
        background = [cell for cell in cells if not front[cell]]
        candidates = background if len(background) > 1 else cells
        source = {}
        for cell, draw in zip(cells, draws, strict=True):
            others = [other for other in candidates if other != cell]
            source[cell] = others[int(np.float32(draw) * np.float32(len(others)))]
        for y in range(height):
            for x in range(width):
                if image_mask[0, y, x]:
                    row, column = y * rows // height, x * columns // width
                    from_row, from_column = source[row, column]
                    shown_y = min(top[from_row] + y - top[row], top[from_row + 1] - 1)
                    shown_x = min(left[from_column] + x - left[column], left[from_column + 1] - 1)
                    image[:, y, x] = seen[:, shown_y, shown_x]
    return out


def test_every_patch_shows_another_one_of_the_background_and_each_of_them_is_shown():
    """Views in which every patch has a colour of its own."""
    colours = torch.arange(16.0).view(1, 1, 4, 4).expand(500, 3, 4, 4)
    views = colours.repeat_interleave(6, 2).repeat_interleave(6, 3).contiguous()
    where = torch.zeros(500, 4, 4, dtype=torch.bool)
    where[:, :2] = True  # the object is the upper half
    generator = torch.Generator().manual_seed(0)
    shown = BackgroundPatches().fill(View("query", views, where), generator)[:, 0, ::6, ::6]
    assert (shown != colours[:, 0]).all()
    counts = torch.bincount(shown.flatten().int(), minlength=16)
    assert counts[:8].sum() == 0
    assert (counts[8:] / 8000 - 1 / 8).abs().max() < 0.02


@pytest.mark.parametrize("background", [0, 1])
def test_an_object_without_surroundings_is_filled_from_all_of_the_view(background):
    views = torch.arange(9.0).view(1, 1, 3, 3).expand(200, 3, 3, 3).contiguous()
    where = torch.ones(200, 3, 3, dtype=torch.bool)
    where[:, 0, :background] = False
    shown = BackgroundPatches().fill(View("query", views, where), None)[:, 0]
    assert (shown != views[:, 0]).all()
    assert set(shown.flatten().tolist()) == set(range(9))


def test_it_is_refused_without_a_localizer_and_on_a_grid_of_one_patch():
    options = dict(localizer=None, patches="random", hard_negatives=0)
    with pytest.raises(InputError, match="BackgroundPatches fills masks by where the object is"):
        masker_for(BackgroundPatches(), **options)
    with pytest.raises(InputError, match="use a finer grid"):
        masker_for(BackgroundPatches(), grid=1)(some_views(), some_views())
