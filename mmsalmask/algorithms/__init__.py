"""The OpenMMLab rim of the heart: preprocessor, algorithms, heads, localizers as configs.

Every module in here is imported with the room, so that what it registers is found by configs.
"""

from importlib import import_module
from pkgutil import iter_modules

import mmpretrain.models  # noqa: F401  (registers the backbones and necks our configs name)

from mmsalmask.algorithms.adios import ADIOSMoCo, ADIOSSimCLR
from mmsalmask.algorithms.base import MaskedAlgorithm
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
    "MaskedAlgorithm",
    "MaskedMoCo",
    "MaskedSimCLR",
    "MaskingDataPreprocessor",
    "NTXentHead",
    "TorchvisionBackbone",
    "backbone_saliency",
    "build_masker",
]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
