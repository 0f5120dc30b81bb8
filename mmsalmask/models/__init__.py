"""The OpenMMLab rim of the heart: preprocessor, algorithms, heads, localizers as configs."""

import mmpretrain.models  # noqa: F401  (registers the backbones and necks our configs name)

from mmsalmask.models.adios import ADIOSMoCo, ADIOSSimCLR
from mmsalmask.models.depth import (
    DepthDataPreprocessor,
    DepthDecoder,
    Monodepth2,
    PoseNet,
    ResNetPyramid,
)
from mmsalmask.models.heads import HardNegativeContrastiveHead, NTXentHead
from mmsalmask.models.localizers import backbone_saliency
from mmsalmask.models.mask_unet import MaskUNet
from mmsalmask.models.moco import MaskedMoCo
from mmsalmask.models.preprocessor import MaskingDataPreprocessor, build_masker
from mmsalmask.models.simclr import MaskedSimCLR

__all__ = [
    "ADIOSMoCo",
    "ADIOSSimCLR",
    "DepthDataPreprocessor",
    "DepthDecoder",
    "HardNegativeContrastiveHead",
    "MaskUNet",
    "MaskedMoCo",
    "MaskedSimCLR",
    "MaskingDataPreprocessor",
    "Monodepth2",
    "NTXentHead",
    "PoseNet",
    "ResNetPyramid",
    "backbone_saliency",
    "build_masker",
]
