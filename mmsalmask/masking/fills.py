"""WITH WHAT: the pixels that stand where a patch was removed. All in normalised units."""

import torch
from torch import Generator, Tensor

from mmsalmask.checks import is_number
from mmsalmask.errors import InputError
from mmsalmask.masking.filters import BLUR_KERNEL, BLUR_SIGMA, gaussian_blur


def noise_fill(images: Tensor, std: float, generator: Generator | None = None) -> Tensor:
    """Gaussian noise of the given standard deviation, drawn anew for every image.

    Returns (N, C, H, W) of the images' shape and dtype.

    Raises:
        InputError: for a standard deviation that is negative or no number.
    """
    if not is_number(std, 0):
        raise InputError(f"std must be a number that is not negative, got {std!r}")
    noise = torch.empty_like(images, dtype=torch.float32, memory_format=torch.contiguous_format)
    return noise.normal_(0, std, generator=generator).to(images.dtype)


def blur_fill(images: Tensor, kernel_size: int = BLUR_KERNEL, sigma: float = BLUR_SIGMA) -> Tensor:
    """The same view strongly blurred, (N, C, H, W): its colours stay, its content goes."""
    return gaussian_blur(images, kernel_size, sigma)


def mean_fill(images: Tensor) -> Tensor:
    """The view's own mean per channel, (N, C, 1, 1), to be broadcast."""
    return images.mean((-2, -1), keepdim=True)
