"""Strategies and localizers under names that a config can write."""

from typing import Any, Literal

from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS

from mmsalmask.checkpoint import backbone_state, check_matches, load_checkpoint
from mmsalmask.checks import check_part
from mmsalmask.errors import InputError
from mmsalmask.parts import Part, follow
from mmsalmask.registry import MODELS
from mmsalmask.saliency import BackboneSaliency, CachedSaliency


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
            "BackboneSaliency needs trained weights: give its checkpoint, a file, an "
            f"address or torchvision://<model>, not {checkpoint!r}"
        )
    backbone = check_part("backbone of BackboneSaliency", backbone)
    net = MMPRETRAIN_MODELS.build(dict(backbone, _scope_="mmpretrain"))
    state = backbone_state(load_checkpoint(checkpoint))
    check_matches(net, state, checkpoint)
    net.load_state_dict(state)
    return BackboneSaliency(net, size, channels_last, dtype)


MODELS.register_module(name="BackboneSaliency", module=backbone_saliency)


@follow
def _register(part: type[Part]) -> None:
    """Let configs name a part of the heart, but those that functions build: a net, a cache."""
    if part not in (BackboneSaliency, CachedSaliency):
        MODELS.register_module(module=part, force=True)
