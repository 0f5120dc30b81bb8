"""The OpenMMLab rim of the heart: preprocessor, algorithms, heads, localizers as configs."""

import mmpretrain.models  # noqa: F401  (registers the backbones and necks our configs name)

from mmsalmask.algorithms.adios import ADIOSMoCo, ADIOSSimCLR
from mmsalmask.algorithms.heads import HardNegativeContrastiveHead, NTXentHead
from mmsalmask.algorithms.localizers import backbone_saliency
from mmsalmask.algorithms.mask_unet import MaskUNet
from mmsalmask.algorithms.moco import MaskedMoCo
from mmsalmask.algorithms.preprocessor import MaskingDataPreprocessor, build_masker
from mmsalmask.algorithms.simclr import MaskedSimCLR
from mmsalmask.algorithms.torchvision_backbone import TorchvisionBackbone

__all__ = [
    "ADIOSMoCo",
    "ADIOSSimCLR",
    "HardNegativeContrastiveHead",
    "MaskUNet",
    "MaskedMoCo",
    "MaskedSimCLR",
    "MaskingDataPreprocessor",
    "NTXentHead",
    "TorchvisionBackbone",
    "backbone_saliency",
    "build_masker",
]
