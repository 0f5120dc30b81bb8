"""The names that other libraries give to a ResNet's tensors."""

import re
from collections.abc import Mapping

from torch import Tensor

from mmsalmask.errors import InputError, some_names

_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_RESNET_NAMES = [
    (re.compile(r"conv1\.weight"), r"stem.conv1.weight"),
    (re.compile(rf"bn1\.{_NORM}"), r"stem.conv1.norm.\1"),
    (re.compile(r"layer(\d)\.(\d+)\.conv(\d)\.weight"), r"res{}.\2.conv\3.weight"),
    (re.compile(rf"layer(\d)\.(\d+)\.bn(\d)\.{_NORM}"), r"res{}.\2.conv\3.norm.\4"),
    (re.compile(r"layer(\d)\.(\d+)\.downsample\.0\.weight"), r"res{}.\2.shortcut.weight"),
    (re.compile(rf"layer(\d)\.(\d+)\.downsample\.1\.{_NORM}"), r"res{}.\2.shortcut.norm.\3"),
]


def to_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's names of its own nets and of ResNets.

    A plain ResNet of mmpretrain has the same names; ``mmsalmask.TorchvisionBackbone`` holds a net
    of torchvision in ``net``.

    Raises:
        InputError: for a net that torchvision's ResNet cannot hold (deep stem, other layers).
    """
    if own := _within(state, "net."):
        return own
    _refuse_foreign(state, "torchvision's ResNet")
    return dict(state)


def to_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's names of its own nets and of plain ResNets, which it names as torchvision does.

    mmpretrain's ``TIMMBackbone`` holds a net of timm in ``timm_model``.

    Raises:
        InputError: for a net that timm's ResNet cannot hold (deep stem, other layers).
    """
    if own := _within(state, "timm_model."):
        return own
    _refuse_foreign(state, "timm's ResNet")
    return dict(state)


def _within(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors without the prefix, if all have it."""
    if not all(name.startswith(prefix) for name in state):
        return {}
    return {name.removeprefix(prefix): value for name, value in state.items()}


def to_detectron2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """detectron2's names of a ResNet's tensors (``stem``, ``res2`` … ``res5``, ``shortcut``).

    ``num_batches_tracked`` is left out: detectron2's frozen BatchNorm has none, and no layer with a
    fixed momentum uses it.

    Raises:
        InputError: for a net that detectron2's ResNet cannot hold (deep stem, other layers).
    """
    _refuse_foreign(state, "detectron2's ResNet")
    return {
        detectron2_name(name): value
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }


def detectron2_name(name: str) -> str | None:
    """detectron2's name for a tensor of a plain ResNet; ``None`` for any other tensor."""
    for pattern, template in _RESNET_NAMES:
        match = pattern.fullmatch(name)
        if match:
            stage = int(match[1]) + 1 if name.startswith("layer") else ""
            return match.expand(template).format(stage)
    return None


def _refuse_foreign(state: Mapping[str, Tensor], target: str) -> None:
    lost = [name for name in state if detectron2_name(name) is None]
    if lost:
        raise InputError(
            f"{target} has no place for {len(lost)} of {len(state)} tensors, which would be lost: "
            f"{some_names(lost, 10)}"
        )
