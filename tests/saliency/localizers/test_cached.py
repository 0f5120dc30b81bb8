"""Cutting a view's map out of its image's."""

import numpy as np
import pytest
import references
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from registered import some_crops
from torch.profiler import ProfilerActivity, profile

from mmsalmask.errors import InputError
from mmsalmask.masking import MeanFill, SaliencyMasker
from mmsalmask.saliency import (
    BoundaryPriorSaliency,
    CachedSaliency,
    cut,
    foreground,
    pool_to_grid,
    standardise,
)


def cached(images=6, cells=(10, 12)):
    maps = torch.randn(images, *cells, generator=torch.Generator().manual_seed(1))
    return CachedSaliency(maps.half())


def reference(localizer, views, crops, grid):
    maps = localizer.maps.double().numpy()
    rows = zip(crops.image.tolist(), crops.box.tolist(), crops.flip.tolist(), strict=True)
    return np.stack([references.cut_map(maps[i], box, flip, grid) for i, box, flip in rows])


share = st.floats(0, 1, width=32)


@settings(max_examples=60, deadline=None)
@given(
    cells=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    grid=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    x=st.tuples(share, share),
    y=st.tuples(share, share),
    flip=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_cut_map_equals_the_sum_of_overlaps(cells, grid, x, y, flip, seed):
    (x0, x1), (y0, y1) = sorted(x), sorted(y)
    if x1 - x0 < 0.01 or y1 - y0 < 0.01:
        return
    maps = torch.randn(2, *cells, generator=torch.Generator().manual_seed(seed))
    box = torch.tensor([[0, 0, 1, 1], [x0, y0, x1, y1]], dtype=torch.float32)
    found = cut(maps, box, torch.tensor([False, flip]), grid)
    for one, edges, mirrored, result in zip(maps, box, (False, flip), found, strict=True):
        expected = references.cut_map(one.double().numpy(), edges.tolist(), mirrored, grid)
        np.testing.assert_allclose(result.numpy(), expected, atol=2e-4)


def test_the_whole_image_is_pooled_as_a_localizers_map_is():
    maps = torch.randn(5, 28, 28)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(5, 4)
    found = cut(maps, whole, torch.zeros(5, dtype=torch.bool), (7, 7))
    torch.testing.assert_close(found, pool_to_grid(maps, 7))


def test_a_box_without_area_has_no_foreground():
    line = torch.tensor([[0.3, 0.2, 0.3, 0.8]])
    found = cut(torch.randn(1, 9, 9), line, torch.tensor([False]), (3, 3))
    assert not foreground(found).any()


@settings(max_examples=60, deadline=None)
@given(x=st.tuples(share, share), y=st.tuples(share, share), value=st.floats(-9, 9, width=16))
def test_a_plain_part_of_an_image_has_no_foreground(x, y, value):
    """Rounding must not turn a wall into an object, wherever the box lies."""
    (x0, x1), (y0, y1) = sorted(x), sorted(y)
    maps = torch.full((1, 14, 14), value)
    box = torch.tensor([[x0, y0, x1, y1]], dtype=torch.float32)
    assert not foreground(cut(maps, box, torch.tensor([True]), (7, 7))).any()


def test_standardising_keeps_the_foreground_and_fits_half_precision():
    saliency = torch.rand(40, 14, 14) * 3e5 + 1e5  # beyond float16's range
    kept = standardise(saliency)
    assert kept.dtype == torch.float16
    assert torch.allclose(kept.float().mean((1, 2)), torch.zeros(40), atol=1e-3)
    agree = foreground(kept) == foreground(saliency)
    assert agree.float().mean() > 0.999


@pytest.mark.parametrize("flaw", [float("nan"), float("inf"), "flat"])
def test_a_map_that_says_nothing_is_cached_as_zero(flaw):
    saliency = torch.rand(2, 5, 5)
    if flaw == "flat":
        saliency[1] = 1e8
    else:
        saliency[1, 2, 2] = flaw
    kept = standardise(saliency)
    assert not kept[1].any()
    assert kept[0].any()


# ------------------------------------------------------------------------------------ the masker


def test_the_masker_masks_by_the_maps_of_its_crops():
    cache = cached()
    query, key = some_crops(8, 6, seed=1), some_crops(8, 6, seed=2)
    masker = SaliencyMasker(MeanFill(), cache, grid=(5, 4))
    views = masker(torch.randn(8, 3, 40, 40), torch.randn(8, 3, 40, 40), crops=(query, key))
    for crops, found, where in (
        (query, views.query_saliency, views.query_foreground),
        (key, views.key_saliency, views.key_foreground),
    ):
        expected = [
            references.cut_map(cache.maps[image].double().numpy(), box.tolist(), bool(flip), (5, 4))
            for image, box, flip in zip(crops.image, crops.box, crops.flip, strict=True)
        ]
        np.testing.assert_allclose(found.numpy(), np.stack(expected), atol=1e-4)
        assert torch.equal(where, foreground(found))
    assert masker.state_dict() == {}
    assert list(masker.parameters()) == list(masker.buffers()) == []


def test_a_localizer_that_is_none_takes_no_notice_of_crops():
    views = torch.randn(2, 4, 3, 32, 32)
    masker = SaliencyMasker(MeanFill(), BoundaryPriorSaliency(), grid=4)
    crops = (some_crops(4, 6), some_crops(4, 6))
    found, expected = masker(*views, crops=crops), masker(*views)
    assert torch.equal(found.query_saliency, expected.query_saliency)


def test_a_cache_without_crops_is_told_which_pipeline_has_them():
    masker = SaliencyMasker(MeanFill(), cached(), grid=5)
    with pytest.raises(InputError, match=r"use mmsalmask\.MultiView, mmsalmask\.RandomResizedCrop"):
        masker(torch.randn(2, 3, 40, 40), torch.randn(2, 3, 40, 40))


def test_a_grid_finer_than_the_cache_is_refused_when_the_masker_is_built():
    SaliencyMasker(MeanFill(), cached(), grid=(10, 12))
    with pytest.raises(InputError, match="maps of 10x12 cells, too coarse for a grid of 11x11"):
        SaliencyMasker(MeanFill(), cached(), grid=11)


def test_cutting_never_waits_for_the_device_nor_loops_over_images():
    """As many operations for 64 views as for 4, and none that brings a value to the CPU."""
    counts = []
    for number in (4, 64):
        cache, crops = cached(), some_crops(number, 6)
        cache.locate(None, crops, (7, 7))
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            cache.locate(None, crops, (7, 7))
        names = [event.key for event in recorded.key_averages()]
        waits = {"aten::item", "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"}
        assert not waits & set(names)
        counts.append(sum(event.count for event in recorded.key_averages()))
    assert counts[0] == counts[1]


def test_autocast_does_not_round_a_cut():
    cache, crops = cached(), some_crops(8, 6)
    plain = cache.locate(None, crops, (7, 7))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = cache.locate(None, crops, (7, 7))
    assert found.dtype == torch.float32
    assert torch.equal(found, plain)
