"""Views on the device: random-resized crop, colours, blur and flip, batched, drawn per image.

Plain PyTorch. Nothing here knows about masks, saliency or losses; what a saliency cache needs to
know of a view, it is told as :class:`~mmsalmask.saliency.crops.Crops`.
"""

from mmsalmask.augmentation.colours import gaussian_blur_each, jitter, shift_hue, solarize, to_grey
from mmsalmask.augmentation.crops import crop_and_resize, random_boxes
from mmsalmask.augmentation.views import DeviceAugmentation, RandomView

__all__ = [
    "DeviceAugmentation",
    "RandomView",
    "crop_and_resize",
    "gaussian_blur_each",
    "jitter",
    "random_boxes",
    "shift_hue",
    "solarize",
    "to_grey",
]
