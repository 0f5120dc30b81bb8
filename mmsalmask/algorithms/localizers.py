"""The localizers under names that a config can write."""

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

import torch
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from torch import nn

from mmsalmask.checkpoint import backbone_state, check_matches, load_checkpoint
from mmsalmask.checks import check_part
from mmsalmask.errors import InputError
from mmsalmask.registry import MODELS
from mmsalmask.saliency import (
    BackboneSaliency,
    BoundaryPriorSaliency,
    CachedSaliency,
    SpectralResidualSaliency,
    open_cache,
)


def backbone_saliency(
    backbone: dict[str, Any],
    checkpoint: str,
    size: int | None = None,
    channels_last: bool = False,
    dtype: Literal["float32", "float16", "bfloat16"] | None = None,
) -> BackboneSaliency:
    """Saliency of an mmpretrain backbone with the weights of a checkpoint; the paper's localizer.

    ``dict(type='mmsalmask.BackboneSaliency', backbone=dict(type='ResNet', depth=50),
    checkpoint='torchvision://resnet50.imagenet1k_v2')`` in a config.

    Args:
        backbone: config of an mmpretrain backbone that returns feature maps.
        checkpoint: a file, an address or ``torchvision://<model>``, read by
            :func:`mmsalmask.checkpoint.load_checkpoint`.
        size, channels_last, dtype: what makes it cheaper, as in
            :class:`~mmsalmask.saliency.BackboneSaliency`.

    Raises:
        InputError: when there is no such checkpoint, or it does not fit the backbone exactly.
    """
    if not isinstance(checkpoint, str):
        raise InputError(
            "BackboneSaliency looks through trained weights: give its checkpoint, a file, an "
            f"address or torchvision://<model>, not {checkpoint!r}"
        )
    backbone = check_part("backbone of BackboneSaliency", backbone)
    net = MMPRETRAIN_MODELS.build(dict(backbone, _scope_="mmpretrain"))
    state = backbone_state(load_checkpoint(checkpoint))
    check_matches(net, state, checkpoint)
    net.load_state_dict(state)
    return BackboneSaliency(net, size, channels_last, dtype)


def cached_saliency(cache: str, localizer: dict[str, Any] | None = None) -> CachedSaliency:
    """The maps that ``tools/cache_saliency.py`` made, in the place of the localizer that made them.

    Args:
        cache: its file.
        localizer: config of the localizer whose maps they have to be. It is built, for its weights
            are compared, and let go. ``None`` to take whatever maps are there.

    Raises:
        InputError: there is no such cache, or it was made by another localizer.
    """
    saliency = open_cache(cache)
    if localizer is not None:
        built = MODELS.build(check_part("localizer", localizer))
        saliency.check_localizer(localizer_identity(localizer, built))
    return saliency


def localizer_identity(config: Mapping[str, Any], localizer: nn.Module) -> dict[str, Any]:
    """What tells a localizer from every other: its config, and a digest of its weights.

    The checkpoint's name is left out: the same weights may lie elsewhere.

    Returns:
        JSON values.
    """
    digest = hashlib.sha256()
    for name, value in sorted(localizer.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    options = {key: _plain(value) for key, value in config.items() if key != "checkpoint"}
    return {**options, "weights": digest.hexdigest()}


def _plain(value: Any) -> Any:
    """Dicts, lists and scalars, as JSON would give them back."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value


MODELS.register_module(name="BackboneSaliency", module=backbone_saliency)
MODELS.register_module(name="CachedSaliency", module=cached_saliency)
MODELS.register_module(module=BoundaryPriorSaliency)
MODELS.register_module(module=SpectralResidualSaliency)
