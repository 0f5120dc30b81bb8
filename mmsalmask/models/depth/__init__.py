"""Monocular depth: geometry, networks and Monodepth2."""

from mmsalmask.models.depth.monodepth import DepthDataPreprocessor, Monodepth2
from mmsalmask.models.depth.networks import DepthDecoder, PoseNet, ResNetPyramid

__all__ = [
    "DepthDataPreprocessor",
    "DepthDecoder",
    "Monodepth2",
    "PoseNet",
    "ResNetPyramid",
]
