"""The device side of the data: augment, normalise, mask, hand on the views."""

import math
import sys
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmpretrain.models import SelfSupDataPreprocessor
from torch import Tensor

from mmsalmask.augmentation import DeviceAugmentation, RandomView
from mmsalmask.checks import check_flag, check_part, is_integer, is_number
from mmsalmask.errors import InputError
from mmsalmask.masking import SaliencyMasker
from mmsalmask.registry import MODELS
from mmsalmask.saliency import Crops

for _part in (SaliencyMasker, DeviceAugmentation, RandomView):
    MODELS.register_module(module=_part)


def build_masker(config: dict) -> SaliencyMasker:
    """The masker that a config describes, with its strategy and its localizer built."""
    config = dict(check_part("masker", config))
    for part in ("strategy", "localizer"):
        if config.get(part) is not None:
            config[part] = MODELS.build(check_part(f"masker.{part}", config[part]))
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


def _check_normalisation(mean: Any, std: Any, to_rgb: bool) -> None:
    if mean is None and std is None:
        return
    for name, values, low in (("mean", mean, -math.inf), ("std", std, sys.float_info.min)):
        several = isinstance(values, Sequence) and not isinstance(values, str) and values
        if not several or not all(is_number(v, low) for v in values):
            raise InputError(
                "mean and std must be three numbers each, or one for each channel, those of std "
                f"positive, or be left out both; {name} is {values!r}"
            )
    if len(mean) != len(std):
        raise InputError(f"mean has {len(mean)} numbers, but std {len(std)}: give one per channel")
    if to_rgb and len(mean) != 3:
        raise InputError(f"to_rgb turns three channels, and mean has {len(mean)}: set to_rgb=False")


def _check_shown(bands: Any) -> list[int] | None:
    several = isinstance(bands, Sequence) and not isinstance(bands, str) and len(bands) == 3
    if bands is not None and not (several and all(is_integer(band, 0) for band in bands)):
        raise InputError(f"shown_bands must be three channels, counted from 0, got {bands!r}")
    return None if bands is None else list(bands)


def _with_cache(masker: dict | None, cache: str) -> dict:
    """The masker with the cache in its localizer's place."""
    if masker is None or check_part("masker", masker).get("localizer") is None:
        raise InputError(
            f"saliency_cache={cache!r} stands in for a localizer, but the config's masker has "
            "none: leave it out, or take a config that masks by saliency"
        )
    cached = dict(type="mmsalmask.CachedSaliency", cache=cache, localizer=masker["localizer"])
    return {**masker, "localizer": cached}


def _by_view(image: torch.Tensor, box: torch.Tensor, flip: torch.Tensor) -> tuple[Crops, ...]:
    """One :class:`Crops` per view of collated crops: (N,), (N, V, 4) and (N, V)."""
    return tuple(Crops(image, *part) for part in zip(box.unbind(1), flip.unbind(1), strict=True))


def _alike(inputs: Tensor | list[Tensor]) -> bool:
    """Whether these are several views of one size."""
    return isinstance(inputs, list) and len({view.shape for view in inputs}) == 1


def build_augmentation(config: dict) -> DeviceAugmentation:
    """The augmentation that a config describes, with its views and its localizer built."""
    config = dict(check_part("augment", config))
    for part in ("view", "key", "localizer"):
        if config.get(part) is not None:
            config[part] = MODELS.build(check_part(f"augment.{part}", config[part]))
    return MODELS.build(config)


@MODELS.register_module()
class MaskingDataPreprocessor(SelfSupDataPreprocessor):
    """Make two views on the device, or take those of the pipeline; normalise and mask them there.

    Hands an algorithm ``inputs = [query, key, hard_negative, …]``: with ``hard_negatives=0`` in the
    masker just two views, so any two-view algorithm of mmpretrain accepts it. If masked pixels show
    another image, a ``mixture`` goes with them, see :class:`~mmsalmask.masking.OtherImage`, which
    ``MaskedMoCo`` accepts. The masker holds no
    parameters and keeps its localizer out of the module tree: the localizer is never in a
    checkpoint, in train mode or in an optimizer.

    Args:
        masker: config of a ``mmsalmask.SaliencyMasker``, or ``None`` for plain two-view training.
        augment: config of a ``mmsalmask.DeviceAugmentation``, for a pipeline that ends with
            ``mmsalmask.PackWhole``; ``None`` if the pipeline makes the views.
        mean, std, to_rgb, non_blocking: as in mmpretrain's ``SelfSupDataPreprocessor``; mean and
            std may have any number of channels, which are then in the order of the files.
        saliency_cache: a file of ``tools/cache_saliency.py`` to take saliency from, instead of
            running the masker's localizer, which has to be the one that made it.
        shown_bands: three channels, counted from 0, that pictures show as red, green and blue where
            images have another number of channels than three. Default: the first three.

    Attributes:
        both_directions: whether each view is handed on as the query once and as the key once, the
            second direction behind the first along the batch; set by algorithms whose loss is
            symmetric.
        images: uint8 (M, 3, S, S), the images of a dataset that lies on the device, set by
            :class:`~mmsalmask.engine.ResidentImagesHook`; batches are then positions in it.
    """

    def __init__(
        self,
        masker: dict | None = None,
        augment: dict | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        to_rgb: bool = False,
        non_blocking: bool = True,
        saliency_cache: str | None = None,
        shown_bands: Sequence[int] | None = None,
    ) -> None:
        check_flag("to_rgb", to_rgb)
        check_flag("non_blocking", non_blocking)
        _check_normalisation(mean, std, to_rgb)
        super().__init__(to_rgb=to_rgb, non_blocking=non_blocking)
        if mean is not None:  # the base class takes three channels or one alone
            self._enable_normalize = True
            for name, values in (("mean", mean), ("std", std)):
                self.register_buffer(name, torch.tensor(values).float().view(-1, 1, 1), False)
        self._told_bands = False
        self.shown_bands = _check_shown(shown_bands)
        if saliency_cache is not None:
            masker = _with_cache(masker, saliency_cache)
        self.masker = None if masker is None else build_masker(masker)
        localizer = getattr(self.masker, "localizer", None)
        if localizer is not None:
            localizer.check_source(normalisation=normalisation(mean, std, to_rgb))
        self.augment = None if augment is None else build_augmentation(augment)
        self.both_directions = False
        self.images: Tensor | None = None

    def forward(self, data: dict, training: bool = False) -> dict:
        """Turn images or views into what the algorithm encodes.

        Args:
            data: ``inputs`` and ``data_samples``. For views made by the pipeline, ``inputs`` is a
                list of two uint8 batches (N, 3, H, W); with ``crops``, a dict of image (N,), box
                (N, V, 4) and flip (N, V), as ``mmsalmask.PackInputs`` makes it, a cache knows where
                the V views were cut from. For views made here it is one batch of whole images,
                uint8 (N, 3, S, S) or float32 (N, C, S, S), or of positions, int64 (N,), and
                ``source`` says what they are:
                ``image`` (N,), their positions in the dataset, and ``size`` (N, 2), their full
                height and width. A single batch that is not for training (feature extraction) is
                normalised only.

        Raises:
            InputError: if a masker or both directions ask for two views and the pipeline gives
                another number, or if the pipeline and ``augment`` do not fit together.
        """
        data = dict(data)
        source, cut = data.pop("source", None), data.pop("crops", None)
        crops = None if cut is None else _by_view(**self.cast_data(cut))
        if training and (source is not None or self.augment is not None):
            data["inputs"], crops = self._augment(data["inputs"], source)
            data["data_samples"] = self.cast_data(data["data_samples"])
        elif training and _alike(data["inputs"]):
            data = self.cast_data(data)
            data["inputs"] = self._normalise(data["inputs"], flip=self._channel_conversion)
        else:
            data = super().forward(data, training)
        return self._mask(data, crops)

    def _augment(self, inputs: Tensor, source: dict | None) -> tuple[list[Tensor], tuple[Crops]]:
        """Normalised views of whole images, and where in the images they lie."""
        if self.augment is None:
            raise InputError(
                "the pipeline hands on whole images (mmsalmask.PackWhole), but nothing makes views "
                "of them: set model.data_preprocessor.augment, or let the pipeline make two views"
            )
        if source is None:
            raise InputError(
                "model.data_preprocessor.augment makes the views, but the pipeline hands on no "
                "whole images: let it be mmsalmask.LoadWhole and mmsalmask.PackWhole, or set "
                "augment=None"
            )
        inputs, index = self.cast_data(inputs), self.cast_data(source["image"])
        images = inputs if inputs.ndim == 4 else self._resident(inputs)
        if images.shape[1] != 3:
            self._tell_bands(images.shape[1])
            views, crops = self.augment(images, index, source["size"])
            return self._normalise(views, flip=False), crops
        # Loaded images are BGR, and so are the views of models that do not ask for RGB.
        views, crops = self.augment(images.flip(1), index, source["size"])
        return self._normalise(views, flip=not self._channel_conversion), crops

    def _tell_bands(self, channels: int) -> None:
        """Check the channels of the first batch, and say once what is left out for them."""
        if self._told_bands:
            return
        self._told_bands = True
        if self._enable_normalize and len(self.mean) != channels:
            raise InputError(
                f"the images have {channels} channels, but mean and std of the data preprocessor "
                f"have {len(self.mean)}: compute them with `mmsalmask data stats`"
            )
        MMLogger.get_current_instance().info(
            f"images of {channels} channels: saturation, hue, grey and solarization, which colours "
            "have, are left out of their views"
        )

    def _normalise(self, views: list[Tensor], flip: bool) -> list[Tensor]:
        """Normalised views, float32, one after the other in memory; channels reversed if asked."""
        joint = torch.empty((len(views), *views[0].shape), device=views[0].device)
        if self._enable_normalize:
            shift, scale = -self.mean / self.std, 1 / self.std
        for view, out in zip(views, joint, strict=True):
            view = view.flip(1) if flip else view
            if self._enable_normalize:
                torch.addcmul(shift, view, scale, out=out)
            else:
                out.copy_(view)
        return list(joint)

    def _resident(self, positions: Tensor) -> Tensor:
        if self.images is None:
            raise InputError(
                "the dataset hands on positions of images (InMemory with resident=True), but they "
                "are not on the device: add dict(type='mmsalmask.ResidentImagesHook') to "
                "custom_hooks"
            )
        return self.images[positions]

    def _mask(self, data: dict, crops: tuple[Crops, ...] | None) -> dict:
        """Mask the views of a batch; ``crops`` says where they were cut from."""
        views = data["inputs"]
        if isinstance(views, torch.Tensor) or not (self.masker or self.both_directions):
            return data
        if len(views) != 2:
            raise InputError(
                f"{'masking' if self.masker else 'a symmetric loss'} takes a query and a key, but "
                f"the pipeline gives {len(views)} views: set num_views=2 in its MultiView"
            )
        if self.masker is None:
            return {**data, "inputs": [torch.cat(views), torch.cat(views[::-1])]}
        masked = self.masker(*views, crops=crops, both_directions=self.both_directions)
        handed = {**data, "inputs": [masked.query, masked.key, *masked.hard_negatives]}
        extra = {"mixture": masked.mixture, "local_crops": masked.local_crops}
        return handed | {name: part for name, part in extra.items() if part is not None}
