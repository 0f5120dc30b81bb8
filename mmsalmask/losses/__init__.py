"""Contrastive losses as pure functions on tensors; plain PyTorch."""

from mmsalmask.losses.info_nce import contrast_logits, info_nce

__all__ = ["contrast_logits", "info_nce"]
