"""A masked patch shows its view at low resolution: one pixel at a time."""

import numpy as np
import pytest
import references
from registered import some_views

from mmsalmask.masking import LowPass, View


def reference(strategy, views, mask, where, role, generator):
    return np.where(mask, references.low_pass(views, strategy.cells), views)


@pytest.mark.parametrize("size", [(28, 28), (23, 31)])
def test_a_low_passed_patch_interpolates_the_means_of_the_cells(size):
    views_ = some_views(2, size)
    filled = LowPass(cells=4).fill(View("query", views_), None)
    assert np.allclose(filled, references.low_pass(views_.double().numpy(), 4), atol=1e-5)
    assert (filled - views_.mean((2, 3), keepdim=True)).std() > 0.01
