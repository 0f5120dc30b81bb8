import math

import numpy as np
import pytest
import references
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mmsalmask.errors import InputError
from mmsalmask.masking import (
    balanced_patches,
    block_patches,
    foreground_patches,
    place_windows,
    random_patches,
    to_pixels,
)

grids = st.tuples(st.integers(1, 15), st.integers(1, 15))
seeds = st.integers(0, 2**31)


@st.composite
def foregrounds_and_ratios(draw):
    rows, columns = draw(grids)
    number = draw(st.integers(1, 5))
    foreground = draw(arrays.arrays(bool, (number, rows, columns)))
    ratio = draw(
        arrays.arrays(np.float32, number, elements=st.floats(0, 1, width=32, allow_subnormal=False))
    )
    return torch.from_numpy(foreground), torch.from_numpy(ratio), draw(seeds)


@pytest.mark.parametrize("shares", ["equal", "paper"])
@given(foregrounds_and_ratios())
@settings(deadline=None, max_examples=300)
def test_balanced_counts_are_exact_for_every_image(shares, case):
    foreground, ratio, seed = case
    patches = balanced_patches(foreground, ratio, torch.Generator().manual_seed(seed), shares)
    # What decides on rounding up is the first that a generator draws.
    ups = torch.rand(ratio.shape, generator=torch.Generator().manual_seed(seed)).numpy()
    for chosen, inside, share, up in zip(patches, foreground, ratio, ups, strict=True):
        up = None if shares == "paper" else up
        expected = references.balanced_counts(inside.numpy(), share.numpy(), up)
        assert (int((chosen & inside).sum()), int((chosen & ~inside).sum())) == expected


@given(foregrounds_and_ratios())
@settings(deadline=None, max_examples=300)
def test_hard_negatives_lose_exactly_their_share_of_the_foreground_and_nothing_else(case):
    foreground, ratio, seed = case
    patches = foreground_patches(foreground, ratio, torch.Generator().manual_seed(seed))
    for chosen, inside, share in zip(patches, foreground, ratio, strict=True):
        assert int(chosen.sum()) == references.foreground_count(inside.numpy(), share.numpy())
        if inside.any():
            assert not (chosen & ~inside).any()


@given(foregrounds_and_ratios())
@settings(deadline=None, max_examples=100)
def test_each_side_loses_its_share_but_for_less_than_a_patch(case):
    foreground, ratio, seed = case
    patches = balanced_patches(foreground, ratio, torch.Generator().manual_seed(seed))
    for side in (foreground, ~foreground):
        lost = (patches & side).sum((1, 2))
        assert (lost - ratio * side.sum((1, 2))).abs().max() < 1 + 1e-4


@pytest.mark.parametrize("grid", [(8, 8), (7, 5), (3, 14)])
def test_blocks_are_the_rectangles_of_the_reference_and_never_too_many(grid):
    ratio = torch.rand(40, 2, generator=torch.Generator().manual_seed(1))
    patches = block_patches(ratio, grid, torch.Generator().manual_seed(2))
    noise = torch.rand(16, 4, 40, 2, generator=torch.Generator().manual_seed(2))
    for image in range(40):
        for channel in range(2):
            count = math.floor(ratio[image, channel] * np.float32(grid[0] * grid[1]))
            expected = references.block_patches(count, *grid, noise[:, :, image, channel].numpy())
            assert np.array_equal(patches[image, channel], expected)


def test_blocks_mask_half_of_mixmasks_grid_in_few_pieces():
    half = torch.full((500,), 0.5)
    blocks = block_patches(half, (8, 8), torch.Generator().manual_seed(0))
    counts = blocks.sum((1, 2))
    assert counts.max() == 32
    assert counts.float().mean() > 31.5
    scattered = random_patches(half, (8, 8), torch.Generator().manual_seed(0))
    borders = [
        (mask[:, 1:] != mask[:, :-1]).sum() + (mask[..., 1:] != mask[..., :-1]).sum()
        for mask in (blocks, scattered)
    ]
    assert borders[0] < 0.5 * borders[1]


@given(grids, st.floats(0, 1, width=32), seeds)
@settings(deadline=None)
def test_random_counts_are_exact(grid, ratio, seed):
    share = torch.tensor([ratio, ratio / 2])
    patches = random_patches(share, grid, torch.Generator().manual_seed(seed), "paper")
    assert patches.shape == (2, *grid)
    expected = (share * (grid[0] * grid[1])).floor().long()
    assert torch.equal(patches.sum((1, 2)), expected)


def test_rounding_beyond_the_count_never_masks_the_background():
    # All 49 patches are foreground and r·49 = 11.515: round gives 12, but n is 11. The released
    # code went on with a background count of -1, which masked nearly all of the background.
    foreground = torch.ones(2, 7, 7, dtype=torch.bool)
    foreground[1, 0, 0] = False
    for ratio, count in ((0.235, 11), (0.1123, 5), (0.0932, 4)):
        patches = balanced_patches(foreground, torch.full((2,), ratio), shares="paper")
        assert torch.equal(patches.sum((1, 2)), torch.full((2,), count))


def test_a_single_foreground_patch_counts_as_foreground():
    # Index 0 too: the released code took a lone patch, and index 0, for none.
    for position in (0, 24, 48):
        foreground = torch.zeros(1, 49, dtype=torch.bool)
        foreground[0, position] = True
        foreground = foreground.view(1, 7, 7)
        chosen = foreground_patches(foreground, torch.tensor([0.7]))
        assert torch.equal(chosen, foreground)


def test_an_image_without_foreground_is_masked_at_random():
    none = torch.zeros(4000, 7, 7, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    query = balanced_patches(none, torch.full((4000,), 0.25), generator)
    published = balanced_patches(none, torch.full((4000,), 0.25), generator, "paper")
    hard = foreground_patches(none, torch.full((4000,), 0.5), generator)
    assert set(query.sum((1, 2)).tolist()) == {12, 13}
    assert torch.equal(published.sum((1, 2)), torch.full((4000,), 12))
    assert torch.equal(hard.sum((1, 2)), torch.full((4000,), 24))
    for patches, share in ((query, 0.25), (published, 12 / 49), (hard, 24 / 49)):
        assert (patches.float().mean(0) - share).abs().max() < 0.04


def test_every_patch_of_a_side_is_drawn_equally_often():
    foreground = torch.zeros(20000, 4, 5, dtype=torch.bool)
    foreground[:, 1:3, 1:4] = True
    chosen = balanced_patches(
        foreground, torch.full((20000,), 0.5), torch.Generator().manual_seed(1)
    ).float()
    inside, outside = chosen.mean(0)[foreground[0]], chosen.mean(0)[~foreground[0]]
    assert (inside - 3 / 6).abs().max() < 0.02
    assert (outside - 7 / 14).abs().max() < 0.02


@pytest.mark.parametrize("grid", [3, 7, 14])
@pytest.mark.parametrize("share", [0.2, 0.4, 0.7])
def test_foreground_and_background_lose_the_same_share_on_average(grid, share):
    generator = torch.Generator().manual_seed(2)
    number = 20000
    foreground = torch.rand(number, grid, grid, generator=generator) < share
    ratio = 0.05 + 0.2 * torch.rand(number, generator=generator)
    chosen = balanced_patches(foreground, ratio, generator)
    for side in (foreground, ~foreground):
        there = side.any(-1).any(-1)
        lost = (chosen & side).sum((1, 2))[there] / side.sum((1, 2))[there]
        # Per image, as the log tells it, and so of any group of images.
        assert abs(lost.mean() - 0.15) < 0.005
    lost = random_patches(ratio, (grid, grid), generator).float().mean()
    assert abs(lost - 0.15) < 0.003


def test_the_papers_counts_take_less_of_the_background():
    generator = torch.Generator().manual_seed(2)
    foreground = torch.rand(20000, 7, 7, generator=generator) < 0.4
    ratio = 0.05 + 0.2 * torch.rand(20000, generator=generator)
    chosen = balanced_patches(foreground, ratio, generator, "paper")
    lost = (chosen & foreground).sum() / foreground.sum()
    lost_behind = (chosen & ~foreground).sum() / (~foreground).sum()
    assert abs(lost - 0.15) < 0.005
    # n is rounded down, by half a patch on average, and the background bears it.
    assert abs(lost_behind - (0.15 - 0.5 / (0.6 * 49))) < 0.005


def test_channels_draw_patches_of_their_own_with_the_same_counts():
    foreground = torch.rand(64, 7, 7) < 0.5
    ratio = torch.full((64, 3), 0.25)
    chosen = balanced_patches(foreground[:, None].expand(-1, 3, -1, -1), ratio, shares="paper")
    assert chosen.shape == (64, 3, 7, 7)
    assert (chosen.sum((2, 3)) == 12).all()
    assert (chosen[:, 0] != chosen[:, 1]).flatten(1).any(1).float().mean() > 0.9


@pytest.mark.parametrize("draw", [balanced_patches, foreground_patches])
def test_a_generator_makes_a_draw_repeatable(draw):
    foreground, ratio = torch.rand(8, 7, 7) < 0.5, torch.full((8,), 0.5)
    first = draw(foreground, ratio, torch.Generator().manual_seed(3))
    assert torch.equal(first, draw(foreground, ratio, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, draw(foreground, ratio, torch.Generator().manual_seed(4)))


@given(grids, st.integers(0, 40), st.integers(0, 40), seeds)
@settings(deadline=None, max_examples=60)
def test_every_pixel_belongs_to_its_patch(grid, extra_rows, extra_columns, seed):
    generator = torch.Generator().manual_seed(seed)
    patches = torch.rand(2, 3, *grid, generator=generator) < 0.5
    size = (grid[0] + extra_rows, grid[1] + extra_columns)
    pixels = to_pixels(patches, size)
    for image, expected in zip(pixels, patches, strict=True):
        assert np.array_equal(image.numpy(), references.to_pixels(expected.numpy(), *size))


def test_an_image_smaller_than_the_grid_is_refused():
    with pytest.raises(InputError, match=r"6x224 px is smaller than the 7x7 patch grid"):
        to_pixels(torch.zeros(1, 1, 7, 7, dtype=torch.bool), (6, 224))


@pytest.mark.parametrize("share", [200 / 224, 130 / 224, 1.0, 0.01])
def test_windows_have_their_size_and_lie_anywhere(share):
    height, width = 61, 96
    places = torch.rand(1, 3000, 2, generator=torch.Generator().manual_seed(0))
    rows, columns = place_windows(places, (height, width), [share])
    windows = (rows[:, :, None] & columns[:, None])[:, None]
    assert windows.shape == (3000, 1, height, width)
    rows, columns = windows.any(3)[:, 0], windows.any(2)[:, 0]
    length = (max(1, round(height * share)), max(1, round(width * share)))
    assert (rows.sum(1) == length[0]).all()
    assert (columns.sum(1) == length[1]).all()
    assert (windows.sum((1, 2, 3)) == length[0] * length[1]).all()
    starts = columns.float().argmax(1)
    assert starts.min() == 0
    assert starts.max() == width - length[1]
    assert abs(starts.float().mean() - (width - length[1]) / 2) < 0.05 * width
