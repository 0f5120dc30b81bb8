"""Data: image folders that may hold broken files, and transforms for the family's pipelines."""

from mmsalmask.data.filters import HighPassFilter, StrongGaussianBlur
from mmsalmask.data.fingerprint import fingerprint
from mmsalmask.data.image_folder import ImageFolder
from mmsalmask.data.image_list import ImageList
from mmsalmask.data.imagenet100 import ImageNet100
from mmsalmask.data.in_memory import InMemory
from mmsalmask.data.loading import (
    BrokenImage,
    LoadImage,
    LoadWhole,
    PackWhole,
    read_image,
    read_whole,
)
from mmsalmask.data.per_class import PerClassSplit, link_split, split_per_class, split_share
from mmsalmask.data.views import MultiView, PackInputs, RandomResizedCrop

__all__ = [
    "BrokenImage",
    "HighPassFilter",
    "ImageFolder",
    "ImageList",
    "ImageNet100",
    "InMemory",
    "LoadImage",
    "LoadWhole",
    "MultiView",
    "PackInputs",
    "PackWhole",
    "PerClassSplit",
    "RandomResizedCrop",
    "StrongGaussianBlur",
    "fingerprint",
    "link_split",
    "read_image",
    "read_whole",
    "split_per_class",
    "split_share",
]
