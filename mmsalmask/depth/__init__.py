"""Monocular depth, Monodepth2 whole: networks, losses, data, metric, report.

Nothing else imports this room: recipes of depth name it under ``custom_imports``.
"""

from mmsalmask.depth.frames import (
    FlipFrames,
    JitterFrames,
    LoadFrames,
    LoadTrueDepth,
    PackFrames,
    ResizeFrames,
)
from mmsalmask.depth.kitti import KITTIRawDepth
from mmsalmask.depth.metric import (
    DepthMetric,
    TranslationMetric,
    constant_depth_errors,
    depth_errors,
)
from mmsalmask.depth.monodepth import DepthDataPreprocessor, Monodepth2
from mmsalmask.depth.networks import DepthDecoder, PoseNet, ResNetPyramid
from mmsalmask.depth.photometric import (
    edge_aware_smoothness,
    minimum_reprojection,
    photometric_error,
    ssim,
)

__all__ = [
    "DepthDataPreprocessor",
    "DepthDecoder",
    "DepthMetric",
    "FlipFrames",
    "JitterFrames",
    "KITTIRawDepth",
    "LoadFrames",
    "LoadTrueDepth",
    "Monodepth2",
    "PackFrames",
    "PoseNet",
    "ResNetPyramid",
    "ResizeFrames",
    "TranslationMetric",
    "constant_depth_errors",
    "depth_errors",
    "edge_aware_smoothness",
    "minimum_reprojection",
    "photometric_error",
    "ssim",
]
