"""Data: image folders that may hold broken files, and transforms for the family's pipelines."""

from mmsalmask.datasets.filters import HighPassFilter, StrongGaussianBlur
from mmsalmask.datasets.image_folder import ImageFolder
from mmsalmask.datasets.imagenet100 import ImageNet100
from mmsalmask.datasets.loading import BrokenImage, LoadImage, read_image

__all__ = [
    "BrokenImage",
    "HighPassFilter",
    "ImageFolder",
    "ImageNet100",
    "LoadImage",
    "StrongGaussianBlur",
    "read_image",
]
