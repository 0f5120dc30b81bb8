import numpy as np
import pytest
import torch

from mmsalmask.depth import (
    edge_aware_smoothness,
    minimum_reprojection,
    photometric_error,
    ssim,
)

torch.set_num_threads(1)


def images(number=2, size=(6, 7), seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(number, 3, *size, generator=generator, dtype=dtype)


def slow_ssim(first, second):
    """One window after the other; windows beyond the border see the image reflected."""
    height, width = first.shape
    first, second = (np.pad(image, 1, mode="reflect") for image in (first, second))
    result = np.zeros((height, width))
    for v in range(height):
        for u in range(width):
            x, y = (image[v : v + 3, u : u + 3].ravel() for image in (first, second))
            mx, my = x.mean(), y.mean()
            covariance = ((x - mx) * (y - my)).mean()
            above = (2 * mx * my + 0.0001) * (2 * covariance + 0.0009)
            result[v, u] = above / ((mx**2 + my**2 + 0.0001) * (x.var() + y.var() + 0.0009))
    return result


def slow_error(first, second):
    """(H, W) of two (3, H, W) arrays."""
    total = 0
    for x, y in zip(first, second, strict=True):
        dissimilar = np.clip((1 - slow_ssim(x, y)) / 2, 0, 1)
        total = total + 0.85 * dissimilar / 3 + 0.15 * np.abs(x - y) / 3
    return total


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ssim_and_error_are_the_slow_ones(dtype):
    first, second = images(dtype=dtype), images(seed=1, dtype=dtype)
    second[1] = first[1] * 0.9 + 0.05 * second[1]
    similar, error = ssim(first, second), photometric_error(first, second)
    assert similar.dtype == error.dtype == dtype
    for i in range(2):
        x, y = first[i].double().numpy(), second[i].double().numpy()
        slow = np.stack([slow_ssim(a, b) for a, b in zip(x, y, strict=True)])
        assert np.allclose(similar[i].numpy(), slow, atol=1e-4 if dtype == torch.float32 else 1e-9)
        assert np.allclose(error[i].numpy(), slow_error(x, y), atol=1e-4)


def test_equal_images_have_no_error_and_opposite_ones_the_largest():
    black, white = torch.zeros(1, 3, 5, 5), torch.ones(1, 3, 5, 5)
    assert photometric_error(black, black).abs().max() < 1e-7
    assert photometric_error(black, white).min() > 0.5
    checks = torch.zeros(1, 3, 5, 5)
    checks[..., ::2] = 1
    assert photometric_error(checks, 1 - checks).max() <= 1


def test_error_is_computed_in_float32_under_autocast_and_from_half_precision():
    first, second = images(dtype=torch.float32), images(seed=1, dtype=torch.float32)
    expected = photometric_error(first, second)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(photometric_error(first, second), expected)
    half = photometric_error(first.half(), second.half())
    assert half.dtype == torch.float32
    assert torch.allclose(half, expected, atol=2e-3)


def test_the_least_error_counts_at_every_pixel_and_standing_pixels_train_nothing():
    warped = torch.tensor([[[[0.2, 0.9, 0.5]], [[0.4, 0.1, 0.6]]]], requires_grad=True)
    unwarped = torch.tensor([[[[0.7, 0.8, 0.05]], [[0.6, 0.7, 0.9]]]])
    loss = minimum_reprojection(warped, unwarped)
    assert loss.item() == pytest.approx((0.2 + 0.1 + 0.05) / 3, abs=1e-4)
    loss.backward()
    third = 1 / 3
    assert torch.allclose(
        warped.grad, torch.tensor([[[[third, 0, 0]], [[0, third, 0]]]]), atol=1e-6
    )


def test_ties_between_warped_and_unwarped_are_broken_at_random():
    torch.manual_seed(0)
    warped = torch.full((1, 1, 50, 50), 0.3, requires_grad=True)
    minimum_reprojection(warped, torch.full((1, 1, 50, 50), 0.3)).backward()
    chosen = (warped.grad > 0).double().mean()
    assert 0.4 < chosen < 0.6


def test_smoothness_is_the_slow_one_and_knows_no_scale():
    generator = torch.Generator().manual_seed(0)
    disparity = 0.1 + torch.rand(2, 5, 6, generator=generator, dtype=torch.float64)
    image = images(size=(5, 6))
    expected = []
    for d, x in zip(disparity.numpy(), image.numpy(), strict=True):
        d = d / d.mean()
        across = [
            abs(d[v, u] - d[v, u + 1]) * np.exp(-np.abs(x[:, v, u] - x[:, v, u + 1]).mean())
            for v in range(5)
            for u in range(5)
        ]
        down = [
            abs(d[v, u] - d[v + 1, u]) * np.exp(-np.abs(x[:, v, u] - x[:, v + 1, u]).mean())
            for v in range(4)
            for u in range(6)
        ]
        expected.append(np.mean(across) + np.mean(down))
    value = edge_aware_smoothness(disparity, image)
    assert value.item() == pytest.approx(np.mean(expected), rel=1e-6)
    assert edge_aware_smoothness(7 * disparity, image).item() == pytest.approx(
        value.item(), rel=1e-6
    )
