"""What algorithms of two views share: an encoder, and batches that hold more than views."""

from typing import Any

from mmpretrain.models import BaseSelfSupervisor
from torch import Tensor, nn

from mmsalmask.algorithms.encoder import check_encoder


class MaskedAlgorithm(BaseSelfSupervisor):
    """An encoder and a head that learn from the views that the masking preprocessor hands on.

    A subclass defines ``loss(inputs, data_samples)``. ``inputs`` are the query and the key, each
    (N, 3, H, W), then the hard negatives. What else the batch holds comes by its name. A subclass
    says what it takes, and configs that make more of it are refused:

    - ``takes_hard_negatives``: ``inputs`` may be longer than two;
    - ``takes_local_crops``: ``loss(…, local_crops)``, (L·N, 3, h, w), all first ones first;
    - ``takes_mixtures``: ``loss(…, mixture)``, a :class:`~mmsalmask.masking.Mixture`.

    Args:
        backbone, neck, head: configs, none of them missing.
        data_preprocessor: config; a ``mmsalmask.MaskingDataPreprocessor`` without a masker where
            there is none.
        init_cfg: as in mmengine.

    Raises:
        InputError: for a part of the encoder that is missing.
    """

    takes_hard_negatives = False
    takes_local_crops = False
    takes_mixtures = False

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
