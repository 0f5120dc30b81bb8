"""What MoCo and SimCLR share: an encoder, and batches that hold more than views."""

from typing import Any

from mmpretrain.models import BaseSelfSupervisor
from torch import Tensor, nn

from mmsalmask.algorithms.encoder import check_encoder


class Contrastive(BaseSelfSupervisor):
    """An encoder and a head that contrasts views, after the masking preprocessor.

    Args:
        backbone, neck, head: configs, none of them missing.
        data_preprocessor: config; a ``mmsalmask.MaskingDataPreprocessor`` without a masker where
            there is none.
        init_cfg: as in mmengine.
    """

    # Configs that make them for other algorithms are refused.
    takes_hard_negatives = True
    takes_local_crops = True

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        head: dict,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        check_encoder(backbone, neck, head)
        super().__init__(
            backbone=backbone,
            neck=neck,
            head=head,
            data_preprocessor=data_preprocessor or dict(type="mmsalmask.MaskingDataPreprocessor"),
            init_cfg=init_cfg,
        )

    @property
    def _encoder(self) -> nn.Sequential:
        return nn.Sequential(self.backbone, self.neck)

    def forward(
        self,
        inputs: list[Tensor],
        data_samples: list | None = None,
        mode: str = "tensor",
        **parts: Any,
    ) -> Any:
        """As of any algorithm of mmpretrain; ``parts`` are those of its ``loss``."""
        if mode == "loss":
            return self.loss(inputs, data_samples, **parts)
        return super().forward(inputs, data_samples, mode)
