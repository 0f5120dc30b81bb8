"""Whether a state dict fits a module."""

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
    """Raise unless a state dict has the keys wanted, or of them those required, and no others."""
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


def check_start(modules: Iterable[nn.Module], checkpoint: Mapping[str, Any], name: str) -> None:
    """Raise unless a backbone's file and the modules that start from it fit without remainder.

    mmengine's ``init_cfg=dict(type='Pretrained', checkpoint=...)`` takes what fits and leaves the
    rest at random without a word: for a ResNet-50 given a ResNet-101, or given a whole pretraining
    checkpoint. Several modules may share a file, as a C4 detector's backbone and its shared head.
    What a plain ResNet does not have (a norm added at its end, deformable offsets) may be missing.

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
            "out with tools/export_backbone.py"
        )
    own = {key: value for key, value in state.items() if not key.startswith("fc.")}
    whose = " and ".join(dict.fromkeys(type(module).__name__ for module in modules))
    _refuse_mismatch(
        wanted, own, name, f"this {whose}", required=detectron2_name if resnet else bool
    )
    style = meta_of(checkpoint).get("style")
    for module in modules:
        if style in ("pytorch", "caffe") and getattr(module, "style", style) != style:
            raise InputError(
                f"{name} is a ResNet of style '{style}', this {type(module).__name__} one of style "
                f"'{module.style}': the weights would fit and compute something else"
            )


def _within_more(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a backbone can be found in a checkpoint, but not under the names that nets have."""
    try:
        return bool(find_backbone(checkpoint).prefix)
    except InputError:
        return False


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None
