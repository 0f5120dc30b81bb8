"""Contrastive losses as pure functions on tensors; plain PyTorch."""

from mmsalmask.losses.adios import area_penalty
from mmsalmask.losses.info_nce import contrast_logits, info_nce
from mmsalmask.losses.nt_xent import nt_xent, nt_xent_logits

__all__ = [
    "area_penalty",
    "contrast_logits",
    "info_nce",
    "nt_xent",
    "nt_xent_logits",
]
