"""The device side of the data: normalise, mask, hand on the views."""

import torch
from mmpretrain.models import SelfSupDataPreprocessor

from mmsalmask.errors import InputError
from mmsalmask.masking import HighPassNoise, MeanFill, SaliencyMasker, StrongBlur
from mmsalmask.registry import MODELS

for _part in (SaliencyMasker, HighPassNoise, StrongBlur, MeanFill):
    MODELS.register_module(module=_part)


def build_masker(config: dict) -> SaliencyMasker:
    """The masker that a config describes, with its strategy and its localizer built."""
    config = dict(config)
    for part in ("strategy", "localizer"):
        if config.get(part) is not None:
            config[part] = MODELS.build(config[part])
    return MODELS.build(config)


@MODELS.register_module()
class MaskingDataPreprocessor(SelfSupDataPreprocessor):
    """Normalise two views on the device and mask them there.

    Hands an algorithm ``inputs = [query, key, hard_negative, …]``: with ``hard_negatives=0`` in the
    masker just two views, so any two-view algorithm of mmpretrain accepts it. The masker holds no
    parameters and keeps its localizer out of the module tree: the localizer is never in a
    checkpoint, in train mode or in an optimizer.

    Args:
        masker: config of a ``mmsalmask.SaliencyMasker``, or ``None`` for plain two-view training.
        mean, std, to_rgb, non_blocking: as in mmpretrain's ``SelfSupDataPreprocessor``.
    """

    def __init__(
        self,
        masker: dict | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        to_rgb: bool = False,
        non_blocking: bool = True,
    ) -> None:
        super().__init__(mean=mean, std=std, to_rgb=to_rgb, non_blocking=non_blocking)
        self.masker = None if masker is None else build_masker(masker)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Turn uint8 views into what the algorithm encodes.

        Args:
            data: ``inputs``, a list of two uint8 batches (N, 3, H, W), and ``data_samples``. A
                single batch instead of a list (feature extraction) is normalised only.

        Raises:
            InputError: if a masker is set and the pipeline does not give exactly two views.
        """
        data = super().forward(data, training)
        views = data["inputs"]
        if self.masker is None or isinstance(views, torch.Tensor):
            return data
        if len(views) != 2:
            raise InputError(
                f"masking takes a query and a key, but the pipeline gives {len(views)} views: "
                "set num_views=2 in its MultiView"
            )
        masked = self.masker(*views)
        return {**data, "inputs": [masked.query, masked.key, *masked.hard_negatives]}
