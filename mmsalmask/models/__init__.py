"""The OpenMMLab rim of the heart: preprocessor, algorithms, heads, localizers as configs."""

import mmpretrain.models  # noqa: F401  (registers the backbones and necks our configs name)

from mmsalmask.models.heads import HardNegativeContrastiveHead
from mmsalmask.models.localizers import backbone_saliency
from mmsalmask.models.moco import MaskedMoCo
from mmsalmask.models.preprocessor import MaskingDataPreprocessor, build_masker

__all__ = [
    "HardNegativeContrastiveHead",
    "MaskedMoCo",
    "MaskingDataPreprocessor",
    "backbone_saliency",
    "build_masker",
]
