import numpy as np
import pytest
import references
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsalmask.errors import InputError
from mmsalmask.masking import gaussian_blur, high_pass


@given(
    st.integers(8, 20),
    st.integers(8, 20),
    st.sampled_from([3, 7, 11]),
    st.floats(0.3, 12),
    st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=40)
def test_blur_is_the_two_dimensional_window_at_every_pixel(height, width, kernel, sigma, seed):
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    blurred = gaussian_blur(images, kernel, sigma)
    for image, result in zip(images, blurred, strict=True):
        for plane, got in zip(image, result, strict=True):
            expected = references.gaussian_blur(plane.numpy(), kernel, sigma)
            assert np.abs(got.numpy() - expected).max() < 1e-5


def test_high_pass_is_the_image_less_its_blur():
    images = torch.randn(1, 3, 24, 18)
    expected = images[0, 1].numpy() - references.gaussian_blur(images[0, 1].numpy(), 11, 5.0)
    assert np.abs(high_pass(images)[0, 1].numpy() - expected).max() < 1e-5


def test_blur_commutes_with_normalisation():
    images = torch.rand(2, 3, 64, 64) * 255
    mean, std = torch.rand(3, 1, 1) * 100, torch.rand(3, 1, 1) * 50 + 20
    after = (gaussian_blur(images, 31, 10.0) - mean) / std
    before = gaussian_blur((images - mean) / std, 31, 10.0)
    assert torch.allclose(after, before, atol=1e-4)


def test_constant_colour_stays_under_blur_and_vanishes_under_high_pass():
    images = torch.full((1, 3, 40, 40), 3.7)
    assert torch.allclose(gaussian_blur(images, 31, 10.0), images, atol=1e-5)
    assert high_pass(images).abs().max() < 1e-5


def test_gradient_of_the_blur_is_its_transpose():
    images = torch.randn(1, 1, 9, 10, dtype=torch.float32, requires_grad=True)
    weight = torch.randn(1, 1, 9, 10)
    (gaussian_blur(images, 5, 1.5) * weight).sum().backward()
    step = torch.zeros_like(images)
    for y, x in ((0, 0), (4, 5), (8, 9)):
        step.zero_()[0, 0, y, x] = 1.0
        expected = (gaussian_blur(step, 5, 1.5) * weight).sum()
        assert torch.allclose(images.grad[0, 0, y, x], expected, atol=1e-5)


def test_autocast_does_not_blur_the_precision():
    images = torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = high_pass(images)
    assert under_autocast.dtype == torch.float32
    assert torch.equal(under_autocast, high_pass(images))


def test_half_precision_images_come_back_as_they_were():
    images = torch.randn(2, 3, 32, 32)
    assert gaussian_blur(images.bfloat16(), 11, 5.0).dtype == torch.bfloat16
    assert torch.allclose(high_pass(images.bfloat16()).float(), high_pass(images), atol=0.03)


@pytest.mark.parametrize(
    ("kernel", "sigma", "message"),
    [
        (10, 5.0, "odd integer of at least 3, got 10"),
        (-3, 5.0, "odd integer of at least 3, got -3"),
        (11, 0.0, "sigma must be positive"),
        (31, 10.0, "needs images of at least 16 px, got 12x40"),
    ],
)
def test_impossible_filters_are_refused(kernel, sigma, message):
    with pytest.raises(InputError, match=message):
        gaussian_blur(torch.zeros(1, 3, 12, 40), kernel, sigma)
