"""The device side of the data: normalise, mask, hand on the views."""

from collections.abc import Sequence

import torch
from mmpretrain.models import SelfSupDataPreprocessor

from mmsalmask.errors import InputError
from mmsalmask.masking import HighPassNoise, MeanFill, SaliencyMasker, StrongBlur
from mmsalmask.registry import MODELS
from mmsalmask.saliency import CachedSaliency, Crops

for _part in (SaliencyMasker, HighPassNoise, StrongBlur, MeanFill):
    MODELS.register_module(module=_part)


def build_masker(config: dict) -> SaliencyMasker:
    """The masker that a config describes, with its strategy and its localizer built."""
    config = dict(config)
    for part in ("strategy", "localizer"):
        if config.get(part) is not None:
            config[part] = MODELS.build(config[part])
    return MODELS.build(config)


def normalisation(
    mean: Sequence[float] | None = None, std: Sequence[float] | None = None, to_rgb: bool = False
) -> dict:
    """What a preprocessor does to pixels before a localizer sees them, as JSON values."""
    return {
        "mean": None if mean is None else list(mean),
        "std": None if std is None else list(std),
        "to_rgb": to_rgb,
    }


def _with_cache(masker: dict | None, cache: str) -> dict:
    """The masker with the cache in its localizer's place."""
    if masker is None or masker.get("localizer") is None:
        raise InputError(
            f"saliency_cache={cache!r} stands in for a localizer, but the config's masker has "
            "none: leave it away, or take a config that masks by saliency"
        )
    cached = dict(type="mmsalmask.CachedSaliency", cache=cache, localizer=masker["localizer"])
    return {**masker, "localizer": cached}


def _by_view(image: torch.Tensor, box: torch.Tensor, flip: torch.Tensor) -> tuple[Crops, ...]:
    """One :class:`Crops` per view of collated crops: (N,), (N, V, 4) and (N, V)."""
    return tuple(Crops(image, *part) for part in zip(box.unbind(1), flip.unbind(1), strict=True))


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
        saliency_cache: a file of ``tools/cache_saliency.py`` to take saliency from, instead of
            running the masker's localizer, which has to be the one that made it.
    """

    def __init__(
        self,
        masker: dict | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        to_rgb: bool = False,
        non_blocking: bool = True,
        saliency_cache: str | None = None,
    ) -> None:
        super().__init__(mean=mean, std=std, to_rgb=to_rgb, non_blocking=non_blocking)
        if saliency_cache is not None:
            masker = _with_cache(masker, saliency_cache)
        self.masker = None if masker is None else build_masker(masker)
        localizer = getattr(self.masker, "localizer", None)
        if isinstance(localizer, CachedSaliency):
            localizer.check_normalisation(normalisation(mean, std, to_rgb))

    def forward(self, data: dict, training: bool = False) -> dict:
        """Turn uint8 views into what the algorithm encodes.

        Args:
            data: ``inputs``, a list of two uint8 batches (N, 3, H, W), and ``data_samples``. A
                single batch instead of a list (feature extraction) is normalised only. With
                ``crops``, a dict of image (N,), box (N, V, 4) and flip (N, V), as
                ``mmsalmask.PackInputs`` makes it, a cache knows where the V views were cut from.

        Raises:
            InputError: if a masker is set and the pipeline does not give exactly two views.
        """
        crops = self.cast_data(data["crops"]) if "crops" in data else None
        data = super().forward({key: data[key] for key in ("inputs", "data_samples")}, training)
        views = data["inputs"]
        if self.masker is None or isinstance(views, torch.Tensor):
            return data
        if len(views) != 2:
            raise InputError(
                f"masking takes a query and a key, but the pipeline gives {len(views)} views: "
                "set num_views=2 in its MultiView"
            )
        masked = self.masker(*views, crops=None if crops is None else _by_view(**crops))
        return {**data, "inputs": [masked.query, masked.key, *masked.hard_negatives]}
