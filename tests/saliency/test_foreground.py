"""The foreground rule and pooling to the patch grid, against loops written from the formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsalmask.errors import InputError
from mmsalmask.saliency import foreground, informative, pool_to_grid, standardise


def slow_foreground(saliency, offset):
    """S ≥ mean − offset·std with the population std, one value at a time, in double precision."""
    rows = []
    for image in saliency.double().tolist():
        values = [value for row in image for value in row]
        mean = sum(values) / len(values)
        std = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
        rows.append([[value >= mean - offset * std for value in row] for row in image])
    return torch.tensor(rows)


def slow_pool(saliency, rows, columns):
    images, height, width = saliency.shape
    pooled = torch.zeros(images, rows, columns)
    for n in range(images):
        for i in range(rows):
            for j in range(columns):
                top, bottom = i * height // rows, -((i + 1) * height // -rows)
                left, right = j * width // columns, -((j + 1) * width // -columns)
                cell = [
                    saliency[n, y, x].item() for y in range(top, bottom) for x in range(left, right)
                ]
                pooled[n, i, j] = sum(cell) / len(cell)
    return pooled


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    images=st.integers(1, 4),
    height=st.integers(1, 9),
    width=st.integers(2, 9),
    offset=st.floats(-1.5, 1.5),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
)
def test_foreground_equals_the_loop_on_random_maps(seed, images, height, width, offset, dtype):
    generator = torch.Generator().manual_seed(seed)
    saliency = torch.randn(images, height, width, generator=generator).mul(5).add(3).to(dtype)
    expected = slow_foreground(saliency, offset)
    wide = saliency.double()
    std, mean = torch.std_mean(wide, dim=(1, 2), correction=0, keepdim=True)
    undecided = (wide - (mean - offset * std)).abs() < 1e-4  # float32 may round these either way
    actual = foreground(saliency, offset)
    assert actual.dtype == torch.bool
    assert actual.shape == saliency.shape
    assert torch.equal(actual | undecided, expected | undecided)


def test_a_value_on_the_threshold_is_foreground():
    """Integers whose mean 3 and std 2 are exact: 1 = mean − 1·std is kept, −1 is not."""
    saliency = torch.tensor([[[1.0, 5.0], [1.0, 5.0]], [[3.0, 3.0], [-1.0, 7.0]]])
    expected = [[[True, True], [True, True]], [[True, True], [False, True]]]
    assert foreground(saliency, offset=1.0).tolist() == expected
    assert foreground(saliency[:1], offset=0.99).tolist() == [[[False, True], [False, True]]]


def test_many_ties_equal_the_loop():
    saliency = torch.randint(0, 3, (200, 7, 7), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(foreground(saliency), slow_foreground(saliency, 0.6))


def test_the_spread_is_that_of_the_population():
    """[0, 1]: std 0.5, threshold 0.5 − 0.9·0.5 = 0.05; the sample's std 0.71 would keep both."""
    assert foreground(torch.tensor([[[0.0, 1.0]]]), offset=0.9).tolist() == [[[False, True]]]


def test_every_value_keeps_its_own_place():
    """Sorting rows first, as the released code does, moves the one background patch elsewhere."""
    saliency = torch.full((49, 7, 7), 10.0)
    for place in range(49):
        saliency[place].view(-1)[place] = -10.0
    expected = ~torch.eye(49, dtype=torch.bool).view(49, 7, 7)
    assert torch.equal(foreground(saliency), expected)
    assert not torch.equal(foreground(saliency.sort(dim=2).values), expected)
    assert not torch.equal(foreground(saliency.sort(dim=1).values), expected)


def test_thresholds_are_per_image():
    saliency = torch.randn(5, 7, 7, generator=torch.Generator().manual_seed(1))
    scaled = saliency * torch.tensor([1.0, 100.0, 1e-3, 7.0, 0.1])[:, None, None]
    shifted = scaled + torch.tensor([0.0, -500.0, 0.0, 9.0, 1.0])[:, None, None]
    assert torch.equal(foreground(shifted), foreground(saliency))


@pytest.mark.parametrize("value", [0.0, 0.1, -3.3, 1e-20, 1e20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_flat_map_has_no_foreground(value, dtype):
    assert not foreground(torch.full((2, 7, 7), value).to(dtype)).any()


def test_rounding_noise_is_flat_and_faint_information_is_not():
    noise = torch.full((1, 7, 7), 1.0)
    noise[0, 3, 3] += torch.finfo(torch.float32).eps
    assert not foreground(noise).any()
    faint = torch.zeros(1, 7, 7)
    faint[0, 3, 3] = 1e-12
    assert foreground(faint, offset=0.0).sum() == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_map_that_is_not_finite_has_no_foreground_and_leaves_others_alone(bad):
    saliency = torch.randn(3, 7, 7, generator=torch.Generator().manual_seed(2))
    expected = foreground(saliency)
    saliency[1, 2, 2] = bad
    expected[1] = False
    assert torch.equal(foreground(saliency), expected)


def test_one_rule_says_which_maps_tell_something_and_all_who_ask_follow_it():
    saliency = torch.randn(6, 7, 7, generator=torch.Generator().manual_seed(4))
    saliency[1] = 3.0
    saliency[2, 0, 0] = math.nan
    saliency[3, 0, 0] = math.inf
    saliency[4] = 1.0
    saliency[4, 0, 0] += torch.finfo(torch.float32).eps
    expected = torch.tensor([True, False, False, False, False, True])
    assert torch.equal(informative(saliency), expected)
    assert torch.equal(foreground(saliency).flatten(1).any(1), expected)
    assert torch.equal(standardise(saliency).flatten(1).any(1), expected)


def test_half_precision_statistics_are_float32_under_autocast():
    """Sums of 49 values near 2000 are beyond float16's and bfloat16's digits."""
    saliency = (torch.randn(20, 7, 7, generator=torch.Generator().manual_seed(3)) + 2000).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = foreground(saliency)
    assert torch.equal(actual, foreground(saliency.double().float()))
    assert actual.any(dim=(1, 2)).all()
    assert not actual.all(dim=2).all(dim=1).any()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    height=st.integers(1, 17),
    width=st.integers(1, 17),
    data=st.data(),
)
def test_pool_to_grid_equals_the_loop(seed, height, width, data):
    rows = data.draw(st.integers(1, height))
    columns = data.draw(st.integers(1, width))
    saliency = torch.randn(2, height, width, generator=torch.Generator().manual_seed(seed))
    pooled = pool_to_grid(saliency, (rows, columns))
    torch.testing.assert_close(pooled, slow_pool(saliency, rows, columns), rtol=1e-5, atol=1e-6)


def test_a_map_of_the_grids_size_is_returned_unchanged():
    saliency = torch.randn(2, 7, 7)
    assert torch.equal(pool_to_grid(saliency, 7), saliency)
    assert pool_to_grid(saliency.half(), 7).dtype == torch.float32
    assert pool_to_grid(saliency.half(), (7, 3)).shape == (2, 7, 3)


@pytest.mark.parametrize("grid", [14, (8, 7), (7, 8)])
def test_a_grid_larger_than_the_map_is_refused_with_both_sizes(grid):
    with pytest.raises(InputError, match=r"grid \d+x\d+ is larger than the saliency map 7x7: use"):
        pool_to_grid(torch.zeros(1, 7, 7), grid)


def test_an_empty_grid_or_a_map_with_channels_is_refused():
    with pytest.raises(InputError, match="at least 1x1"):
        pool_to_grid(torch.zeros(1, 7, 7), 0)
    with pytest.raises(InputError, match=r"shape \(N, h, w\)"):
        pool_to_grid(torch.zeros(1, 3, 7, 7), 7)
    with pytest.raises(InputError, match=r"shape \(N, h, w\)"):
        foreground(torch.zeros(7, 7))
