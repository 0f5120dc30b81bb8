"""The penalty that keeps ADIOS's slots from covering nothing or everything."""

import math

import torch
from torch import Tensor

from mmsalmask.device import without_autocast
from mmsalmask.errors import InputError

_EPSILON = 1e-10


def area_penalty(masks: Tensor) -> Tensor:
    """Σ_n mean_b 1 / (sin(π·area_bn) + 1e-10): the sparsity penalty of Shi et al. 2022.

    The area of a slot is its mean over the pixels of an image. The penalty of a slot is least, 1,
    where it covers half of the image, and grows without bound towards areas of 0 and 1.

    Args:
        masks: soft masks of S slots, (N, S, H, W), in [0, 1], any floating dtype.

    Returns:
        float32 scalar, at least S.

    Raises:
        InputError: for masks of another number of dimensions.
    """
    if masks.ndim != 4:
        raise InputError(f"slot masks are (N, S, H, W), got {tuple(masks.shape)}")
    with without_autocast(masks.device):
        area = masks.float().mean((2, 3))
        # The sine is symmetric about 1/2. In float32 it would be negative for π·1, and a slot that
        # covers everything would be rewarded.
        sine = torch.sin(math.pi * torch.minimum(area, 1 - area).clamp_min(0))
        return (1 / (sine + _EPSILON)).mean(0).sum()
