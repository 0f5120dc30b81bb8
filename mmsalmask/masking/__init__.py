"""WHICH patches are masked and WITH WHAT; plain PyTorch."""

from mmsalmask.masking.feathered import FeatheredMean
from mmsalmask.masking.fills import blur_fill, mean_fill, noise_fill
from mmsalmask.masking.filters import gaussian_blur, high_pass
from mmsalmask.masking.low_pass import LowPass
from mmsalmask.masking.masker import MaskedViews, SaliencyMasker, mask_ratios
from mmsalmask.masking.other_image import OtherImage
from mmsalmask.masking.patches import (
    balanced_patches,
    block_patches,
    foreground_patches,
    place_windows,
    random_patches,
    to_pixels,
)
from mmsalmask.masking.strategies import HighPassNoise, MeanFill, Mixture, Strategy, StrongBlur

__all__ = [
    "FeatheredMean",
    "HighPassNoise",
    "LowPass",
    "MaskedViews",
    "MeanFill",
    "Mixture",
    "OtherImage",
    "SaliencyMasker",
    "Strategy",
    "StrongBlur",
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
    "to_pixels",
]
