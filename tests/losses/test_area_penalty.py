import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsalmask.errors import InputError
from mmsalmask.losses import area_penalty


def reference(masks) -> float:
    """The sum over slots of means over images, one pixel at a time."""
    total = 0.0
    for n in range(masks.shape[1]):
        for b in range(masks.shape[0]):
            pixels = [float(pixel) for row in masks[b, n] for pixel in row]
            area = sum(pixels) / len(pixels)
            total += 1 / (math.sin(math.pi * area) + 1e-10) / masks.shape[0]
    return total


def slot(area: float) -> torch.Tensor:
    return torch.full((1, 1, 4, 4), area)


@given(
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=60)
def test_penalty_is_the_formula_written_out(number, slots, height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    masks = 0.02 + 0.96 * torch.rand(number, slots, height, width, generator=generator)
    expected = reference(masks.double())
    assert area_penalty(masks).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("area", [0.02, 0.3, 0.7, 0.98])
def test_descending_the_penalty_moves_the_area_towards_one_half(area):
    mask = slot(area).requires_grad_()
    area_penalty(mask).backward()
    step = -mask.grad.mean().item()
    assert step * (0.5 - area) > 0
    assert area_penalty(slot(area + 1e-3 * math.copysign(1, step))) < area_penalty(slot(area))


def test_penalty_is_least_at_one_half_and_huge_at_both_ends():
    assert area_penalty(slot(0.5)).item() == pytest.approx(1)
    # A plain float32 sine of π is negative, and would reward the slot that covers everything.
    for area in (0.0, 1.0):
        assert area_penalty(slot(area)) > 1e9
    assert area_penalty(slot(1 - 1e-4)).item() == pytest.approx(1 / (math.pi * 1e-4), rel=1e-2)


def test_half_precision_masks_are_averaged_in_float32():
    masks = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        penalty = area_penalty(masks.bfloat16())
    assert penalty.dtype == torch.float32
    assert penalty.item() == pytest.approx(area_penalty(masks).item(), rel=1e-2)


def test_masks_without_slots_are_refused():
    with pytest.raises(InputError, match=r"\(N, S, H, W\)"):
        area_penalty(torch.rand(2, 8, 8))
