"""Each operation against torchvision's, image by image."""

import itertools

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from mmsalmask.augmentation import gaussian_blur_each, jitter, shift_hue, solarize, to_grey

STEPS = (
    reference.adjust_brightness,
    reference.adjust_contrast,
    reference.adjust_saturation,
    reference.adjust_hue,
)


def images(number: int, size: int = 9, seed: int = 0) -> torch.Tensor:
    """Random pixels with greys, black, white and equal channels among them."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (number, 3, size, size), generator=generator).float()
    pixels[:, :, 0, 0], pixels[:, :, 0, 1] = 0, 255
    pixels[:, :, 1] = pixels[:, :1, 1]
    pixels[:, 1, 2] = pixels[:, 0, 2]
    pixels[:, 2, 3] = pixels[:, 1, 3]
    pixels[:, 2, 4] = pixels[:, 0, 4]
    return pixels


def test_grey_is_torchvisions():
    batch = images(3)
    assert torch.allclose(to_grey(batch), reference.rgb_to_grayscale(batch), atol=0.03)


@settings(max_examples=25, deadline=None)
@given(turns=st.lists(st.floats(-0.5, 0.5), min_size=4, max_size=4), seed=st.integers(0, 99))
def test_the_hue_turns_as_torchvisions(turns, seed):
    batch = images(4, seed=seed)
    expected = [reference.adjust_hue(i / 255, t) * 255 for i, t in zip(batch, turns, strict=True)]
    mine = shift_hue(batch, torch.tensor(turns))
    assert torch.allclose(mine, torch.stack(expected), atol=0.05)


def test_every_order_of_the_jitter_is_torchvisions():
    """All 24 orders in one batch: each image follows its own."""
    orders = sorted(itertools.permutations(range(4)), key=lambda order: order.index(3))
    batch = images(len(orders))
    generator = torch.Generator().manual_seed(1)
    factors = torch.rand(len(orders), 4, generator=generator) * 1.6 + 0.2
    factors[:, 3] = (factors[:, 3] - 1) / 2
    mine = jitter(batch.clone(), factors, torch.tensor(orders))
    for image, view, own, order in zip(batch, mine, factors, orders, strict=True):
        for step in order:
            image = STEPS[step](image / 255, own[step].item()) * 255
        assert torch.allclose(view, image, atol=0.05), order


def test_neutral_factors_leave_an_image_as_it_is():
    batch = images(2)
    neutral = torch.tensor([[1.0, 1.0, 1.0, 0.0]] * 2)
    assert torch.allclose(
        jitter(batch.clone(), neutral, torch.arange(4).expand(2, 4)), batch, atol=1e-3
    )


def test_solarization_is_torchvisions():
    batch = images(2)
    expected = torch.stack([reference.solarize(i.byte(), 128) for i in batch]).float()
    assert torch.equal(solarize(batch), expected)


def test_each_image_is_blurred_by_its_own_sigma():
    """torchvision's Gaussian, but for its reflection at the border."""
    batch = images(4, size=40)
    sigmas = [0.1, 0.7, 1.3, 2.0]
    mine = gaussian_blur_each(batch, torch.tensor(sigmas), 2.0)
    for image, view, sigma in zip(batch, mine, sigmas, strict=True):
        expected = reference.gaussian_blur(image, 13, sigma)
        inside = slice(6, -6)
        assert torch.allclose(view[:, inside, inside], expected[:, inside, inside], atol=0.01)


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.0])
def test_pillows_boxes_come_near_the_gaussian(photos, sigma):
    """To a level on average, where the blur itself changes several: what the CPU pipelines do."""
    photo = Image.open(min(photos("coco-mini").rglob("*.jpg"))).convert("RGB")
    pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].float()
    mine = gaussian_blur_each(pixels, torch.tensor([sigma]), 2.0)[0].permute(1, 2, 0).numpy()
    pillows = np.asarray(photo.filter(ImageFilter.GaussianBlur(sigma))).astype(float)
    assert np.abs(mine - pillows).mean() < 1


def test_a_sigma_of_zero_changes_nothing():
    batch = images(2, size=20)
    mine = gaussian_blur_each(batch, torch.tensor([0.0, 2.0]), 2.0)
    assert torch.equal(mine[0], batch[0])
    assert not torch.allclose(mine[1], batch[1], atol=5)


def test_the_border_is_repeated():
    flat = torch.zeros(1, 1, 20, 20)
    flat[..., 0] = 100.0
    view = gaussian_blur_each(flat, torch.tensor([2.0]), 2.0)
    offsets = np.arange(-6, 7)
    window = np.exp(-(offsets**2) / 8)
    assert view[0, 0, 10, 0].item() == pytest.approx(100 * window[:7].sum() / window.sum(), 1e-4)
