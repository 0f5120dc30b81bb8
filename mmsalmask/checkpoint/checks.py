"""Whether a state dict fits a module."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from mmsalmask.checkpoint.layouts import find_backbone
from mmsalmask.checkpoint.loading import meta_of
from mmsalmask.checkpoint.names import detectron2_name
from mmsalmask.errors import InputError, some_names


def check_matches(module: nn.Module, state: Mapping[str, Any], name: str) -> None:
    """Raise unless a state dict fits a module: the same keys and the same shapes.

    BatchNorm's ``num_batches_tracked``, absent from files of older torch, may be missing.

    Args:
        name: of the checkpoint, for the message.

    Raises:
        InputError: with the numbers of missing, unexpected and wrongly shaped tensors and the
            first five of each.
    """
    _refuse_mismatch(module.state_dict(), state, name, f"this {type(module).__name__}")


def _refuse_mismatch(
    wanted: Mapping[str, Any],
    state: Mapping[str, Any],
    name: str,
    whose: str,
    required: Callable[[str], Any] = lambda key: True,
) -> None:
    """Raise unless a state dict has all required keys and none beside those wanted."""
    optional = "num_batches_tracked"
    missing = [
        key for key in wanted if key not in state and not key.endswith(optional) and required(key)
    ]
    unexpected = [key for key in state if key not in wanted]
    misshapen = [
        f"{key} {_shape(state[key])} instead of {_shape(value)}"
        for key, value in wanted.items()
        if key in state and _shape(state[key]) != _shape(value)
    ]
    found = [
        f"{len(keys)} {what} ({some_names(keys)})"
        for what, keys in [
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", misshapen),
        ]
        if keys
    ]
    if found:
        raise InputError(
            f"{name} is a checkpoint of another architecture than {whose}: {'; '.join(found)}"
        )


def check_complete(
    state: Mapping[str, Tensor], backbone: Mapping[str, Any] | None, name: str
) -> None:
    """Raise for an incomplete backbone: a net that starts from it would be partly random.

    It is compared with the net that the checkpoint's config describes. A ResNet without a config
    is compared with the shallowest ResNet that has all of its blocks; other nets without a config
    are not judged.

    Args:
        state: in mmpretrain's names, as :func:`backbone_state` returns it.
        backbone: its config, ``None`` if the checkpoint has none.
        name: of the checkpoint, for the message.

    Raises:
        InputError: with the number of missing tensors and the first five.
    """
    net = (backbone and _configured(backbone)) or _resnet_like(state)
    if net is None:
        return
    wanted = [key for key in net.state_dict() if not key.endswith("num_batches_tracked")]
    missing = [key for key in wanted if key not in state]
    if missing:
        depth = getattr(net, "depth", "")
        raise InputError(
            f"{name} holds a part of a {type(net).__name__}{depth and f'-{depth}'} only, "
            f"{len(missing)} of {len(wanted)} tensors are missing ({some_names(missing)}): give "
            "the checkpoint of the whole net"
        )


def _configured(backbone: Mapping[str, Any]) -> nn.Module | None:
    """The net of a checkpoint's config; ``None`` if mmpretrain cannot build it."""
    from mmpretrain.registry import MODELS

    plain = {key: value for key, value in backbone.items() if key != "init_cfg"}
    try:
        return MODELS.build({**plain, "_scope_": "mmpretrain"})
    except (KeyError, TypeError, ValueError, AssertionError, RuntimeError, ImportError):
        return None


def _resnet_like(state: Mapping[str, Tensor]) -> nn.Module | None:
    """The shallowest ResNet of mmpretrain that has a state's blocks; ``None`` for another net."""
    from mmpretrain.models import ResNet, ResNetV1c, ResNetV1d

    blocks = re.findall(r"^layer(\d)\.(\d+)\.conv1\.weight$", "\n".join(state), re.MULTILINE)
    found = {int(stage): 1 + max(int(b) for s, b in blocks if s == stage) for stage, _ in blocks}
    widths = [len(state[f"layer{stage}.{found[stage] - 1}.conv1.weight"]) for stage in found]
    doubling = [widths[0] * 2 ** (stage - min(found)) for stage in found] if found else []
    if not found or widths != doubling:  # a RegNet also has a ResNet's names
        return None
    bottleneck = any(".conv3." in key for key in state)
    kind = ResNet
    if any(key.startswith("stem.") for key in state):
        kind = ResNetV1d if "layer2.0.downsample.2.weight" in state else ResNetV1c
    for depth, (block, stages) in sorted(ResNet.arch_settings.items()):
        deep_enough = all(found.get(stage, 0) <= count for stage, count in enumerate(stages, 1))
        if deep_enough and (block.__name__ == "Bottleneck") == bottleneck:
            return kind(depth=depth)
    return None


def check_start(modules: Iterable[nn.Module], checkpoint: Mapping[str, Any], name: str) -> None:
    """Raise unless a backbone's file fits the modules that start from it exactly.

    mmengine's ``init_cfg=dict(type='Pretrained', checkpoint=...)`` takes what fits and leaves the
    rest random without a word, for example for a ResNet-50 that is given a ResNet-101 or a whole
    pretraining checkpoint. Several modules may share a file: a C4 detector's backbone and its
    shared head. What a plain ResNet does not have (a norm at its end, deformable offsets) may be
    missing.

    Modules without a ResNet's names are judged only with files of ``tools/export_backbone.py``.

    Args:
        modules: all that start from the file.
        checkpoint: the file, as :func:`load_checkpoint` reads it.
        name: of the file, for the message.

    Raises:
        InputError: for a backbone of another depth, width, stem or style, and for a file that
            holds more than a backbone.
    """
    modules = list(modules)
    state = checkpoint.get("state_dict", checkpoint)
    wanted = {key: value for module in modules for key, value in module.state_dict().items()}
    resnet = any(map(detectron2_name, wanted))
    if not resnet and "mmsalmask_version" not in meta_of(checkpoint):
        return
    if _within_more(checkpoint):
        raise InputError(
            f"{name} holds more than a backbone, and none of it would be loaded: take the backbone "
            "out with `mmsalmask export`"
        )
    own = {key: value for key, value in state.items() if not key.startswith("fc.")}
    whose = " and ".join(dict.fromkeys(type(module).__name__ for module in modules))
    _refuse_mismatch(
        wanted, own, name, f"this {whose}", required=detectron2_name if resnet else bool
    )
    for module in modules:
        check_style(module, checkpoint, name)


def check_style(module: nn.Module, checkpoint: Mapping[str, Any], name: str) -> None:
    """Raise where an exported ResNet has its strides in other layers than the module.

    Args:
        checkpoint, name: as for :func:`check_start`.

    Raises:
        InputError: for another style.
    """
    style = meta_of(checkpoint).get("style")
    if style in ("pytorch", "caffe") and getattr(module, "style", style) != style:
        raise InputError(
            f"{name} is a ResNet of style '{style}', this {type(module).__name__} one of style "
            f"'{module.style}': the weights would fit and compute something else"
        )


def _within_more(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint holds a backbone, but under names that no net has."""
    try:
        return bool(find_backbone(checkpoint).prefix)
    except InputError:
        return False


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None
