"""Colours and blur of a batch, another draw for each image, no loop over images, no wait.

Images are RGB, (N, 3, H, W) float32 in [0, 255] on any device, and stay in that range; those of
:func:`jitter_bands` and :func:`gaussian_blur_each` may have any channels and any range. Formulas
are those of torchvision and Pillow without Pillow's rounding to whole levels after each step. What
was drawn for each image lies on the CPU, so that the host knows which images a step concerns.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsalmask.device import constant, upload

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
# ITU-R 601, as Pillow, OpenCV and torchvision weigh.
_GREY = (0.299, 0.587, 0.114)
# How much of the chroma red, green and blue lack at the hues of −6 to 6 sixths of the circle.
_MISSING = [
    [float(min((sixth - own) % 6, (own - sixth) % 6) > 1) for sixth in range(-6, 7)]
    for own in (0, 2, 4)
]


def to_grey(images: Tensor) -> Tensor:
    """Luma, (N, 1, H, W)."""
    number, _, height, width = images.shape
    weights = constant([list(_GREY)], images.device).expand(number, 1, 3)
    return (weights @ images.flatten(2)).view(number, 1, height, width)


def shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of each image; lightness and saturation stay.

    In HSV a turn leaves the largest channel M and the smallest m alone, and every channel is
    M − C·t(hue) with the chroma C = M − m and a trapezoid t of its own. So neither saturation nor
    value is computed. The hue in sixths of the circle, from red at 0, is ±(G + B − R + M − 2m) / C,
    positive towards green: on each of the six sides of the colour hexagon that is the usual
    formula. The trapezoids bend at whole sixths only, so reading them from a table of whole sixths
    is exact; ``grid_sample`` does it in one pass.

    Args:
        images: (N, 3, H, W), any range from 0 on.
        turns: (N,) on the images' device, in [−0.5, 0.5]; 1 is the full circle.
    """
    # Not aminmax: on a CPU it takes six times as long as both.
    least, most = images.amin(1, keepdim=True), images.amax(1, keepdim=True)
    red, green, blue = images.split(1, dim=1)
    hue = (most - red).add_(green).add_(blue).sub_(least, alpha=2).copysign_(green - blue)
    # Greys have the hue 0.
    chroma = torch.sub(most, least, out=least).clamp_(min=torch.finfo(most.dtype).tiny)
    place = torch.addcdiv(turns[:, None, None, None], hue, chroma, value=1 / 6)[:, 0, :, :, None]
    missing = F.grid_sample(
        constant(_MISSING, images.device)[None, :, None].expand(len(images), -1, -1, -1),
        place.expand(-1, -1, -1, 2),  # the table has one row, whatever the second coordinate
        padding_mode="border",
        align_corners=True,
    )
    return torch.addcmul(most, chroma, missing, value=-1)


def turn_place(order: Tensor) -> Tensor:
    """(N,), where in its order, (N, 4), each image has the turn of its hue."""
    return (order == HUE).int().argmax(1)


def jitter(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue, for each image in an order of its own.

    The first three are blends, of the image with black, its mean grey or its own greys: one
    formula, f·x + (1 − f)·other, clipped. Images lie sorted by the place of the turn of the hue, so
    a blend before the turn concerns the last of them and a blend after it the first: each image
    passes three blends and one turn.

    Args:
        images: (N, 3, H, W), sorted such that :func:`turn_place` of ``order`` ascends; they are
            written over.
        factors: (N, 4) on the CPU, of brightness, contrast, saturation, from 0 on, 1 changes
            nothing; and turns of the hue, 0 changes nothing.
        order: (N, 4) int64 on the CPU, a permutation of 0 to 3 per image, which of the four comes
            first, …
    """
    # How many images have the turn before each place.
    earlier = torch.searchsorted(turn_place(order), torch.arange(1, 4)).tolist()
    blends = order[order != HUE].view(-1, 3)
    own = factors.gather(1, blends)
    with_mean, with_grey = (1 - own) * (blends == CONTRAST), (1 - own) * (blends == SATURATION)
    drawn = torch.cat([own, with_mean, with_grey, factors[:, HUE:]], 1)
    *steps, turns = upload(drawn, images.device).unbind(1)
    for blend, first in enumerate(earlier):
        _blend_(images[first:], *(step[first:] for step in steps[blend::3]))
    images = shift_hue(images, turns)
    for blend, end in enumerate(earlier):
        _blend_(images[:end], *(step[:end] for step in steps[blend::3]))
    return images


def _blend_(images: Tensor, factor: Tensor, with_mean: Tensor, with_grey: Tensor) -> None:
    """x ← factor·x + with_mean·mean grey + with_grey·greys, in place; the shares are (N,)."""
    if not len(images):
        return
    factor, with_mean, with_grey = (t[:, None, None, None] for t in (factor, with_mean, with_grey))
    grey = to_grey(images)
    mean = grey.mean((2, 3), keepdim=True) * with_mean
    other = torch.addcmul(mean, grey, with_grey, out=grey)
    torch.addcmul(other, images, factor, out=images).clamp_(0, 255)


def jitter_bands(images: Tensor, factors: Tensor) -> Tensor:
    """Change brightness and contrast of images with any number of channels.

    Contrast blends each channel with its own mean, which, unlike a mean grey, every kind of image
    has. So the two may come in any order. Nothing is clipped: the channels may have any range.

    Args:
        images: (N, C, H, W).
        factors: (N, 4) on the CPU as in :func:`jitter`; saturation and hue do not count.
    """
    brightness, contrast = upload(factors[:, :2], images.device)[..., None, None, None].unbind(1)
    mean = images.mean((2, 3), keepdim=True)
    return torch.lerp(mean, images, contrast) * brightness


def solarize(images: Tensor, threshold: float = 128) -> Tensor:
    """Invert the pixels from the threshold on."""
    return torch.where(images < threshold, images, 255 - images)


def gaussian_blur_each(images: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """Blur each image with a σ of its own; the border's pixels are repeated, as Pillow does.

    Pillow approximates the Gaussian by three box filters; this is the Gaussian itself, cut off at
    four times the largest σ here or at three times the largest anywhere, whichever is less: a
    depthwise convolution along each axis.

    Args:
        images: (N, C, H, W), any range.
        sigma: (N,) on the CPU, in pixels; 0 leaves an image as it is.
        largest: the upper limit of ``sigma``.
    """
    radius = min(max(1, round(3 * largest)), max(1, math.ceil(4 * sigma.max())))
    offsets = torch.arange(-radius, radius + 1)
    # exp(−d² / tiny) is 0 for d ≠ 0 and 1 for d = 0: a σ of 0 changes nothing.
    window = torch.exp(-(offsets**2) / (2 * sigma[:, None] ** 2).clamp(min=1e-6))
    window /= window.sum(1, keepdim=True)
    planes = images.shape[0] * images.shape[1]
    window = upload(window.repeat_interleave(images.shape[1], 0), images.device)[:, None, None]
    padded = F.pad(images, (radius,) * 4, mode="replicate").flatten(0, 1)[None]
    across = F.conv2d(padded, window, groups=planes)
    return F.conv2d(across, window.mT, groups=planes).view(images.shape)
