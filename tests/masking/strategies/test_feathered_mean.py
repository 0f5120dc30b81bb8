"""A mask that fades in over a few pixels: one pixel at a time."""

import numpy as np
import pytest
import references
import torch
from registered import masker_for, some_views

from mmsalmask.masking import FeatheredMean, MeanFill, mean_fill


def reference(strategy, views, mask, where, role, generator):
    radius = tuple(round(strategy.ramp * side / 2) for side in views.shape[-2:])
    opacity = references.feather(mask, radius)
    return views + opacity * (views.mean((2, 3), keepdims=True) - views)


def test_a_feathered_mask_fades_into_the_mean_by_its_distance_from_the_border():
    query, key = some_views(3, (45, 67)), some_views(3, (45, 67), seed=1)
    strategy = FeatheredMean(ramp=1 / 9)
    masked = masker_for(strategy)(query, key)
    opacity = references.feather(masked.query_mask.numpy(), (2, 4))
    assert np.allclose(strategy.opacity(masked.query_mask), opacity, atol=1e-6)
    mixed = query.numpy() + opacity * (mean_fill(query) - query).numpy()
    assert np.allclose(masked.query, mixed, atol=1e-5)
    # A ramp: across a straight border the steps of the opacity are equal, and none is an edge.
    half = torch.zeros(1, 1, 90, 90, dtype=torch.bool)
    half[..., 45:] = True
    across = strategy.opacity(half)[0, 0, 45]
    assert np.allclose(across[39:51].diff(), 1 / 11, atol=1e-6)
    assert across[:40].max() == 0
    assert across[50:].min() == pytest.approx(1)


def test_without_a_ramp_a_feathered_mean_is_the_mean():
    query, key = some_views(), some_views(seed=1)
    draws = [torch.Generator().manual_seed(0) for _ in range(2)]
    feathered = masker_for(FeatheredMean(ramp=0))(query, key, draws[0])
    plain = masker_for(MeanFill())(query, key, draws[1])
    assert torch.allclose(feathered.query, plain.query, atol=1e-6)
