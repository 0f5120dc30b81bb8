"""Losses that train depth from video alone (Zhou et al. 2017; Godard et al. 2019); plain PyTorch.

All are computed in float32 (float64 stays), also under autocast: SSIM's variances are differences
of nearly equal numbers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_SSIM_WEIGHT = 0.85
_C1 = 0.01**2
_C2 = 0.03**2


def _full(images: Tensor) -> Tensor:
    return images if images.dtype == torch.float64 else images.float()


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity over 3×3 windows with equal weights (Wang et al. 2004).

    (2μ₁μ₂ + C₁)(2σ₁₂ + C₂) / ((μ₁² + μ₂² + C₁)(σ₁² + σ₂² + C₂)), C₁ = 0.01², C₂ = 0.03²; the image
    is reflected at its border.

    Args:
        first, second: (N, C, H, W) in [0, 1].

    Returns:
        (N, C, H, W) in [-1, 1], 1 where the windows are equal.
    """
    with torch.autocast(first.device.type, enabled=False):
        x, y = (F.pad(_full(image), (1, 1, 1, 1), mode="reflect") for image in (first, second))
        mean_x, mean_y = _window_mean(x), _window_mean(y)
        variance_x = _window_mean(x * x) - mean_x**2
        variance_y = _window_mean(y * y) - mean_y**2
        covariance = _window_mean(x * y) - mean_x * mean_y
        similar = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
        return similar / ((mean_x**2 + mean_y**2 + _C1) * (variance_x + variance_y + _C2))


def _window_mean(images: Tensor) -> Tensor:
    """Mean of every 3×3 window, (N, C, H, W) → (N, C, H − 2, W − 2).

    Shifted sums, which a CPU adds several times as fast as it pools.
    """
    rows = images[..., :-2, :] + images[..., 1:-1, :] + images[..., 2:, :]
    return (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9


def photometric_error(synthesised: Tensor, target: Tensor) -> Tensor:
    """0.85 · clamp((1 − SSIM)/2, 0, 1) + 0.15 · |difference|, averaged over the channels.

    Args:
        synthesised, target: (N, C, H, W) in [0, 1].

    Returns:
        (N, H, W) in [0, 1].
    """
    difference = (_full(synthesised) - _full(target)).abs().mean(1)
    dissimilar = ((1 - ssim(synthesised, target)) / 2).clamp(0, 1).mean(1)
    return _SSIM_WEIGHT * dissimilar + (1 - _SSIM_WEIGHT) * difference


def minimum_reprojection(warped: Tensor, unwarped: Tensor, noise: float = 1e-5) -> Tensor:
    """Mean over the pixels of the least of all errors, warped or not.

    The minimum over sources ignores the source in which a point is hidden. Where a source fits
    better unwarped, the pixel has not moved (another car at the same speed, a standing camera): the
    minimum is then a constant, so that pixel trains nothing; this is the auto-mask. A little noise
    on the unwarped errors breaks ties in their disfavour and favour alike.

    Args:
        warped: (N, S, H, W), errors of S synthesised views, with gradient.
        unwarped: (N, S, H, W), errors of the S source views as they are.
        noise: standard deviation of the tie-breaking noise.

    Returns:
        A scalar.
    """
    unwarped = unwarped.detach() + noise * torch.randn_like(unwarped)
    return torch.cat([warped, unwarped], dim=1).amin(1).mean()


def edge_aware_smoothness(disparity: Tensor, image: Tensor) -> Tensor:
    """Mean of |∂d*|·exp(−|∂I|) in both directions, with d* = d / mean(d) of each image.

    Args:
        disparity: (N, H, W), positive.
        image: (N, C, H, W) in [0, 1]; its gradients are averaged over the channels.

    Returns:
        A scalar.
    """
    disparity, image = _full(disparity), _full(image)
    relative = disparity / (disparity.mean((1, 2), keepdim=True) + 1e-7)
    total = disparity.new_zeros(())
    for dim in (-1, -2):
        edge = image.diff(dim=dim).abs().mean(1)
        total = total + (relative.diff(dim=dim).abs() * torch.exp(-edge)).mean()
    return total
