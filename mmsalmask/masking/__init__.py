"""WHICH patches are masked and WITH WHAT; plain PyTorch.

The strategies are the files in :mod:`mmsalmask.masking.strategies`, and can be imported from here.
"""

from typing import Any

from mmsalmask.masking import strategies
from mmsalmask.masking.fills import blur_fill, mean_fill, noise_fill
from mmsalmask.masking.filters import gaussian_blur, high_pass
from mmsalmask.masking.masker import SaliencyMasker
from mmsalmask.masking.patches import (
    balanced_patches,
    block_patches,
    foreground_patches,
    place_windows,
    random_patches,
    to_pixels,
)
from mmsalmask.masking.strategy import Mixture, Strategy, View
from mmsalmask.masking.views import MaskedViews, mask_ratios

__all__ = [
    "MaskedViews",
    "Mixture",
    "SaliencyMasker",
    "Strategy",
    "View",
    "balanced_patches",
    "block_patches",
    "blur_fill",
    "foreground_patches",
    "gaussian_blur",
    "high_pass",
    "mask_ratios",
    "mean_fill",
    "noise_fill",
    "place_windows",
    "random_patches",
    "strategies",
    "to_pixels",
    *Strategy.registered(),
]


def __getattr__(name: str) -> Any:
    try:
        return Strategy.registered()[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
