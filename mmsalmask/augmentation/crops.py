"""Random-resized crops of a batch: boxes as torchvision draws them, pixels as Pillow resizes them.

kornia's RandomResizedCrop takes all images for equally large, places its fallback at random and
cuts in a Python loop over the images. Here boxes are drawn in each image's own pixels, and cutting,
resizing and flipping are two matrix products.
"""

import math
from typing import Literal

import torch
from torch import Generator, Tensor

from mmsalmask.errors import InputError

_ATTEMPTS = 10


def random_boxes(
    sizes: Tensor,
    area: tuple[float, float] = (0.2, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
    generator: Generator | None = None,
) -> Tensor:
    """Boxes of random area, aspect ratio and place, one per image.

    The distribution is that of torchvision's and mmpretrain's RandomResizedCrop: the first of ten
    boxes that fits into the image, whole pixels, every place equally likely; where none fits, the
    largest centred box of an allowed aspect ratio.

    Args:
        sizes: (N, 2), height and width of each image in pixels, integers.
        area: range of the box's share of the image's area, uniform.
        aspect: range of the box's width / height, uniform in its logarithm.
        generator: on the device of ``sizes``; the global one where absent.

    Returns:
        (N, 4) float32 x0, y0, x1, y1 in pixels of the image, whole numbers.
    """
    height, width = sizes.float().unbind(1)
    number, device = len(sizes), sizes.device
    drawn = torch.rand(4, number, _ATTEMPTS, generator=generator, device=device)
    areas = _between(drawn[0], area) * (height * width)[:, None]
    aspects = _between(drawn[1], tuple(map(math.log, aspect))).exp()
    widths, heights = (areas * aspects).sqrt().round(), (areas / aspects).sqrt().round()
    fits = (widths > 0) & (heights > 0) & (widths <= width[:, None]) & (heights <= height[:, None])
    first = fits.int().argmax(1, keepdim=True)
    w, h, right, down = (t.gather(1, first)[:, 0] for t in (widths, heights, drawn[2], drawn[3]))
    # Rounding could make ⌊u·(n + 1)⌋ reach n + 1 for the largest u < 1.
    x = (right * (width - w + 1)).floor().minimum(width - w)
    y = (down * (height - h + 1)).floor().minimum(height - h)
    largest_w = width.minimum((height * aspect[1]).round()).clamp(min=1)
    largest_h = height.minimum((width / aspect[0]).round()).clamp(min=1)
    centred_x = ((width - largest_w) / 2).floor()
    centred_y = ((height - largest_h) / 2).floor()
    found = fits.any(1)
    x, w = torch.where(found, x, centred_x), torch.where(found, w, largest_w)
    y, h = torch.where(found, y, centred_y), torch.where(found, h, largest_h)
    return torch.stack([x, y, x + w, y + h], 1)


def crop_and_resize(
    images: Tensor,
    boxes: Tensor,
    flip: Tensor,
    size: int,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> Tensor:
    """Cut a box out of each image, resize it to a square and mirror it where asked.

    Resizing is linear and separable, so a view is R·X·Cᵀ with one banded matrix for the rows and
    one for the columns of its box; a flip reverses the order of C. The weights are Pillow's, with
    its antialiasing when a box shrinks, from the pixels that the box touches and no others.

    Args:
        images: (N, C, H, W) float32.
        boxes: (N, 4) float32 x0, y0, x1, y1 in pixels of ``images``, not empty, any fractions.
        flip: (N,) bool, mirror left to right.
        size: height and width of the views in pixels.
        interpolation: ``bicubic`` may overshoot the range of the pixels.

    Returns:
        (N, C, size, size) float32.
    """
    number, channels, height, width = images.shape
    x0, y0, x1, y1 = boxes.unbind(1)
    columns = _resize_matrix(x0, x1, width, size, interpolation)
    columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    rows = _resize_matrix(y0, y1, height, size, interpolation)
    narrow = images.reshape(number, channels * height, width) @ columns.mT
    return rows[:, None] @ narrow.view(number, channels, height, size)


def _between(uniform: Tensor, limits: tuple[float, float]) -> Tensor:
    """Values uniform in [0, 1) → uniform between the limits."""
    low, high = limits
    return low + (high - low) * uniform


def _resize_matrix(
    start: Tensor, end: Tensor, source: int, size: int, interpolation: str
) -> Tensor:
    """(N, size, source): row i holds the weights of output pixel i, which sum to one."""
    length = (end - start)[:, None, None]
    output = torch.arange(size, device=start.device)[:, None]
    pixel = torch.arange(source, device=start.device)
    centre = start[:, None, None] + (output + 0.5) * length / size
    distance = (pixel + 0.5 - centre).abs() / (length / size).clamp(min=1)
    touched = (pixel + 1 > start[:, None, None]) & (pixel < end[:, None, None])
    weights = _KERNELS[interpolation](distance) * touched
    return weights / weights.sum(-1, keepdim=True)


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance).clamp(min=0)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic with a = −1/2, as in Pillow."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


_KERNELS = {"bilinear": _triangle, "bicubic": _cubic}


def check_interpolation(interpolation: str) -> None:
    """Refuse a kernel that is not here.

    Raises:
        InputError: names those that are.
    """
    if interpolation not in tuple(_KERNELS):
        raise InputError(f"interpolation must be 'bilinear' or 'bicubic', got {interpolation!r}")
