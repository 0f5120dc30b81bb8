"""Random-resized crops of a batch: boxes as torchvision draws them, pixels as Pillow resizes them.

kornia's RandomResizedCrop takes all images for equally large, places its fallback at random and
cuts in a Python loop over the images. Here boxes are drawn on the host, in each image's own pixels;
cutting, resizing and flipping are two matrix products on the device.
"""

import math
from functools import partial
from typing import Literal

import torch
from torch import Generator, Tensor

from mmsalmask.device import upload
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
    aspects = _between(drawn[1], (math.log(aspect[0]), math.log(aspect[1]))).exp()
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


def other_places(
    boxes: Tensor, sizes: Tensor, number: int, generator: Generator | None = None
) -> Tensor:
    """So many further places of each box, every place in the image equally likely.

    Args:
        boxes: (N, 4) x0, y0, x1, y1 in whole pixels, as :func:`random_boxes` draws them.
        sizes: (N, 2), height and width of each image in pixels, integers.
        number: places per box.
        generator: on the device of ``sizes``; the global one where absent.

    Returns:
        (N, number, 4) float32, boxes of the same width and height.
    """
    sides = (boxes[:, 2:] - boxes[:, :2])[:, None]
    room = sizes.flip(1)[:, None] - sides
    place = torch.rand(len(boxes), number, 2, generator=generator, device=sizes.device)
    corner = (place * (room + 1)).floor().minimum(room)
    return torch.cat([corner, corner + sides], -1)


def most_salient(boxes: Tensor, saliency: Tensor) -> Tensor:
    """Of the boxes of each image, which are of one size, the one that holds most saliency.

    Args:
        boxes: (V·N, K, 4) x0, y0, x1, y1 as shares of the image's width and height; first K boxes
            of each image, then the next K of each, …
        saliency: (N, h, w) of the whole images, on the device of the boxes; a cell counts by the
            share of it that lies inside.

    Returns:
        (V·N,) int64, the places of the chosen among the K.

    >>> saliency = torch.zeros(1, 4, 4)
    >>> saliency[:, 2:, 2:] = 1.0
    >>> most_salient(torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]]]), saliency)
    tensor([1])
    """
    x0, y0, x1, y1 = boxes.unflatten(0, (-1, len(saliency))).unbind(-1)
    height, width = saliency.shape[1:]
    rows, columns = _overlap(y0, y1, height), _overlap(x0, x1, width)
    return torch.einsum("vnkh,nhw,vnkw->vnk", rows, saliency, columns).argmax(-1).flatten()


def _overlap(start: Tensor, end: Tensor, cells: int) -> Tensor:
    """(…, cells): how much of each of so many cells lies between start and end, shares of all."""
    first = torch.arange(cells, device=start.device)
    start, end = (cells * each[..., None] for each in (start, end))
    return (end.minimum(first + 1) - start.maximum(first)).clamp_(min=0)


def crop_and_resize(
    images: Tensor,
    boxes: Tensor,
    flip: Tensor,
    size: int,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> Tensor:
    """Cut V boxes out of each image, resize them to a square and mirror them where asked.

    Resizing is linear and separable, so a view is R·X·Cᵀ with one banded matrix for the rows and
    one for the columns of its box; a flip reverses the order of C. The weights are Pillow's, with
    its antialiasing when a box shrinks, from the pixels that the box touches and no others.

    Args:
        images: (N, C, H, W), uint8 or float32.
        boxes: (V·N, 4) float32, x0, y0, x1, y1 in pixels of ``images``, not empty, any fractions;
            first one box of each image, then the second of each, …
        flip: (V·N,) bool, mirror left to right; on the device of the boxes, the CPU's or the
            images'.
        size: height and width of the views in pixels.
        interpolation: ``bicubic`` may overshoot the range of the pixels.

    Returns:
        (V·N, C, size, size) float32, in the order of the boxes; in memory the channels of a row
        lie one after the other.
    """
    number, channels, height, width = images.shape
    x0, y0, x1, y1 = boxes.unbind(1)
    upright = torch.zeros_like(flip)
    made = partial(_resize_matrices, number, size, interpolation, images.device)
    if height == width:  # both by the same kernels
        both = map(torch.cat, ((y0, x0), (y1, x1), (upright, flip)))
        rows, columns = made(width, *both).chunk(2, 1)
    else:
        rows, columns = made(height, y0, y1, upright), made(width, x0, x1, flip)
    # Rows of all channels lie side by side, and so do both views of an image: one large product.
    pixels = images.transpose(1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    low = rows.flatten(1, 2) @ pixels.flatten(2)
    low = low.view(number, -1, size * channels, width)
    views = torch.empty(low.shape[1], number, size * channels, size, device=images.device)
    for view, matrices in enumerate(columns.unbind(1)):
        torch.bmm(low[:, view], matrices.mT, out=views[view])
    return views.view(-1, size, channels, size).transpose(1, 2)


def _between(uniform: Tensor, limits: tuple[float, float]) -> Tensor:
    """Values uniform in [0, 1) → uniform between the limits."""
    low, high = limits
    return low + (high - low) * uniform


def _resize_matrices(
    number: int,
    size: int,
    interpolation: str,
    device: torch.device,
    source: int,
    start: Tensor,
    end: Tensor,
    flip: Tensor,
) -> Tensor:
    """(N, V, size, source) on the device: row i holds the weights of output pixel i.

    They sum to one. Only the few that may differ from zero are computed. Starts, ends and flips are
    (V·N,).
    """
    kernel, reach = _KERNELS[interpolation]
    drawn = torch.stack([start, end, flip.float()], 1).view(-1, number, 3).transpose(0, 1)
    start, end, flip = upload(drawn, device)[..., None].unbind(2)  # (N, V, 1) each
    step = (end - start) / size
    output = torch.arange(size, device=device) + 0.5
    centre = start + step * torch.where(flip > 0, size - output, output)
    stretch = step.clamp(min=1)
    taps = min(source, math.ceil(2 * reach * max(1, source / size)) + 1)
    first = (centre - reach * stretch + 0.5).floor_().clamp_(0, source - taps)
    pixel = first[..., None] + torch.arange(taps, device=device)
    distance = (pixel + 0.5 - centre[..., None]).abs_() / stretch[..., None]
    touched = (pixel + 1 > start[..., None]) & (pixel < end[..., None])
    weights = kernel(distance) * touched
    weights /= weights.sum(-1, keepdim=True)
    matrices = torch.zeros(*centre.shape, source, device=device)
    return matrices.scatter_(-1, pixel.long(), weights)


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance).clamp(min=0)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic with a = −1/2, as in Pillow."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


# And how far from an output pixel they reach.
_KERNELS = {"bilinear": (_triangle, 1), "bicubic": (_cubic, 2)}


def check_interpolation(interpolation: str) -> None:
    """Refuse a kernel that is not here.

    Raises:
        InputError: names those that are.
    """
    if interpolation not in tuple(_KERNELS):
        raise InputError(f"interpolation must be 'bilinear' or 'bicubic', got {interpolation!r}")
