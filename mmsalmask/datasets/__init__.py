"""Data: image folders that may hold broken files, and transforms for the family's pipelines."""

from mmsalmask.datasets.difficult import LearnDifficult
from mmsalmask.datasets.filters import HighPassFilter, StrongGaussianBlur
from mmsalmask.datasets.fingerprint import fingerprint
from mmsalmask.datasets.frames import (
    FlipFrames,
    JitterFrames,
    LoadFrames,
    LoadTrueDepth,
    PackFrames,
    ResizeFrames,
)
from mmsalmask.datasets.image_folder import ImageFolder
from mmsalmask.datasets.imagenet100 import ImageNet100
from mmsalmask.datasets.in_memory import InMemory
from mmsalmask.datasets.kitti import KITTIRawDepth
from mmsalmask.datasets.loading import (
    BrokenImage,
    LoadImage,
    LoadWhole,
    PackWhole,
    read_image,
    read_whole,
)
from mmsalmask.datasets.per_class import PerClassSplit, link_split, split_per_class, split_share
from mmsalmask.datasets.views import MultiView, PackInputs, RandomResizedCrop

__all__ = [
    "BrokenImage",
    "FlipFrames",
    "HighPassFilter",
    "ImageFolder",
    "ImageNet100",
    "InMemory",
    "JitterFrames",
    "KITTIRawDepth",
    "LearnDifficult",
    "LoadFrames",
    "LoadImage",
    "LoadTrueDepth",
    "LoadWhole",
    "MultiView",
    "PackFrames",
    "PackInputs",
    "PackWhole",
    "PerClassSplit",
    "RandomResizedCrop",
    "ResizeFrames",
    "StrongGaussianBlur",
    "fingerprint",
    "link_split",
    "read_image",
    "read_whole",
    "split_per_class",
    "split_share",
]
