"""Colours and blur of a batch, another draw for each image, no loop over images, no wait.

Images are RGB, (N, 3, H, W) float32 in [0, 255], and stay in that range. Formulas are those of
torchvision and Pillow without Pillow's rounding to whole levels after each step.

Of kornia only the filtering is used. Its ColorJitter draws one order of the four steps for a whole
batch and asks the host which steps may be skipped; its random greyscale and blur pick the chosen
images by indices, whose number the host must wait for, and its blur reads σ back to check it.
"""

import torch
from kornia.filters import filter2d_separable
from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
# ITU-R 601, as Pillow, OpenCV and torchvision weigh.
_GREY = (0.299, 0.587, 0.114)


def to_grey(images: Tensor) -> Tensor:
    """Luma, (N, 1, H, W)."""
    red, green, blue = images.split(1, dim=1)
    return (_GREY[0] * red).add_(green, alpha=_GREY[1]).add_(blue, alpha=_GREY[2])


def shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of each image; lightness and saturation stay.

    In HSV a turn leaves the largest channel M and the smallest m alone, and every channel is
    M − (M − m)·t(hue) with a trapezoid t of its own. So neither saturation nor value is computed.

    Args:
        images: (N, 3, H, W), any range from 0 on.
        turns: (N,), 1 is the full circle.
    """
    red, green, blue = images.split(1, dim=1)
    largest, smallest = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = largest - smallest
    # In sixths of the circle: red is at 0, green at 2, blue at 4. Greys keep the hue 0.
    sixth = torch.where(
        largest == red,
        green - blue,
        torch.where(largest == green, blue - red, red - green),
    ) / torch.where(chroma == 0, 1.0, chroma)
    sixth += torch.where(largest == red, 0.0, torch.where(largest == green, 2.0, 4.0))
    sixth += 6 * turns[:, None, None, None]
    place = torch.cat([sixth + 5, sixth + 3, sixth + 1], 1).remainder_(6)
    return largest - chroma * torch.minimum(place, 4 - place).clamp_(0, 1)


def jitter(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue, for each image in an order of its own.

    The first three are blends, of the image with black, its mean grey or its own greys: one
    formula, f·x + (1 − f)·other, clipped. Three blends before the turn of the hue and three after
    it make any order of the four, if a blend that is not due leaves its image as it is. That costs
    less than a turn of the hue at each of the four places.

    Args:
        images: (N, 3, H, W).
        factors: (N, 4) of brightness, contrast, saturation, from 0 on, 1 changes nothing; and
            turns of the hue, 0 changes nothing.
        order: (N, 4) int64, a permutation of 0 to 3 per image, which of the four comes first, …
    """
    turn_at = (order == HUE).int().argmax(1)
    steps = [_blend_step(factors, order[:, place]) for place in range(4)]
    for place in range(3):  # in the last place nothing can come before a turn
        images = _blend(images, *steps[place], due=turn_at > place)
    images = shift_hue(images, factors[:, HUE])
    for place in range(1, 4):
        images = _blend(images, *steps[place], due=turn_at < place)
    return images


def _blend_step(factors: Tensor, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Factor (N,) of the blend that each image has at this place, and what it blends with."""
    factor = factors.gather(1, which[:, None])[:, 0]
    return factor, which == CONTRAST, which == SATURATION


def _blend(
    images: Tensor, factor: Tensor, with_mean: Tensor, with_grey: Tensor, due: Tensor
) -> Tensor:
    factor = torch.where(due, factor, 1.0)[:, None, None, None]
    grey = to_grey(images)
    mean = grey.mean((2, 3), keepdim=True)
    mean *= (1 - factor) * with_mean[:, None, None, None]
    grey *= (1 - factor) * with_grey[:, None, None, None]
    return (images * factor).add_(grey).add_(mean).clamp_(0, 255)


def solarize(images: Tensor, threshold: float = 128) -> Tensor:
    """Invert the pixels from the threshold on."""
    return torch.where(images < threshold, images, 255 - images)


def gaussian_blur_each(images: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """Blur each image with a σ of its own; the border's pixels are repeated, as Pillow does.

    Pillow approximates the Gaussian by three box filters; this is the Gaussian itself, cut off
    at three times the largest σ.

    Args:
        images: (N, C, H, W), any range.
        sigma: (N,), in pixels; 0 leaves an image as it is.
        largest: the upper limit of ``sigma``; it decides the size of the window without a look at
            the values, which would have to be waited for.
    """
    radius = max(1, round(3 * largest))
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    # exp(−d² / tiny) is 0 for d ≠ 0 and 1 for d = 0: a σ of 0 changes nothing.
    window = torch.exp(-(offsets**2) / (2 * sigma[:, None] ** 2).clamp(min=1e-6))
    window /= window.sum(1, keepdim=True)
    return filter2d_separable(images, window, window, border_type="replicate")
