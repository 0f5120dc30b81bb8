"""Contrastive losses as pure functions on tensors; plain PyTorch."""

from mmsalmask.losses.adios import area_penalty
from mmsalmask.losses.info_nce import contrast_logits, info_nce
from mmsalmask.losses.nt_xent import nt_xent, nt_xent_logits
from mmsalmask.losses.photometric import (
    edge_aware_smoothness,
    minimum_reprojection,
    photometric_error,
    ssim,
)

__all__ = [
    "area_penalty",
    "contrast_logits",
    "edge_aware_smoothness",
    "info_nce",
    "minimum_reprojection",
    "nt_xent",
    "nt_xent_logits",
    "photometric_error",
    "ssim",
]
