"""Data: image folders that may hold broken files, and transforms for the family's pipelines."""

from mmsalmask.data.bands import LoadBands, read_bands, read_whole_bands
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
from mmsalmask.data.packing import Packed, pack
from mmsalmask.data.per_class import PerClassSplit, link_split, split_per_class, split_share
from mmsalmask.data.statistics import Statistics, channel_statistics
from mmsalmask.data.views import MultiView, PackInputs, RandomResizedCrop

__all__ = [
    "BrokenImage",
    "HighPassFilter",
    "ImageFolder",
    "ImageList",
    "ImageNet100",
    "InMemory",
    "LoadBands",
    "LoadImage",
    "LoadWhole",
    "MultiView",
    "PackInputs",
    "PackWhole",
    "Packed",
    "PerClassSplit",
    "RandomResizedCrop",
    "Statistics",
    "StrongGaussianBlur",
    "channel_statistics",
    "fingerprint",
    "link_split",
    "pack",
    "read_bands",
    "read_image",
    "read_whole",
    "read_whole_bands",
    "split_per_class",
    "split_share",
]
