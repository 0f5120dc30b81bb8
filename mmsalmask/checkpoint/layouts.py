"""The backbone in a checkpoint, whoever wrote it."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from mmsalmask.checkpoint.loading import meta_of
from mmsalmask.errors import InputError, some_names

# Where the weights lie in a file that holds more; DINO's teacher is the net that it evaluates, and
# PyTorch's tutorials save a model_state_dict.
_CONTAINERS = ("state_dict", "model_state_dict", "model", "teacher")
# What distributed training, torch.compile and Lightning modules put before every name; the first
# two also where the backbone alone is wrapped.
_WRAPPERS = re.compile(r"(module|_orig_mod|model)\.")
_INNER_WRAPPERS = re.compile(r"(module|_orig_mod)\.")
_RESNET = re.compile(r"(conv1|bn1|stem|layer\d)\.")
# What stands behind the features of a ResNet: MoCo keeps its neck in fc, SwAV beside it.
_HEADS = re.compile(r"(fc|head|classifier|projector|projection_head|predictor|prototypes)\.")
# torchvision's ResNet as a Sequential of its children, without those that have no weights.
_CHILDREN = {"0": "conv1", "1": "bn1", **{str(i + 3): f"layer{i}" for i in range(1, 5)}}
# torchvision's MobileNetV2: one list of blocks, which mmpretrain divides into layers.
_MOBILENET = re.compile(r"features\.(\d+)\.(?:conv\.(\d)\.)?(?:([01])\.)?(\w+)")
_BLOCKS = [f"layer{i}.{j}" for i, many in enumerate((1, 2, 3, 4, 3, 3, 1), 1) for j in range(many)]


class Layout(NamedTuple):
    """One project's layout: its name, the backbone's prefix, and what has to lie beside it."""

    whose: str
    prefix: str
    beside: tuple[str, ...] = ()


# In order: the first that fits. Of two encoders it is the one that learns by gradients.
_LAYOUTS = (
    Layout("solo-learn", "backbone.", ("momentum_backbone", "classifier")),
    Layout("Barlow Twins", "backbone.", ("projector",)),
    Layout("lightly", "backbone.", ("backbone_momentum", "projection_head", "prediction_head")),
    Layout("OpenMMLab", "backbone."),
    Layout("lightly", "student_backbone."),
    Layout("MoCo", "encoder_q."),
    Layout("MoCo v3", "base_encoder."),
    Layout("solo-learn", "encoder.", ("momentum_encoder", "projector", "classifier")),
    Layout("SimSiam", "encoder."),
    Layout("torchvision", ""),
)


class Found(NamedTuple):
    """A backbone in mmpretrain's names, without prefix, and what lay around it.

    Attributes:
        state: the backbone.
        whose: the project whose names were recognised.
        prefix: that of the backbone in the file; empty if the file holds its names as they are.
        left_over: the names of all other tensors, without wrappers such as ``module.``.
    """

    state: dict[str, Tensor]
    whose: str
    prefix: str
    left_over: list[str]

    def listing(self) -> str:
        """What is left over, by its first names: ``encoder_k (265 tensors), queue (1 tensor)``."""
        counts = Counter(name.partition(".")[0] for name in self.left_over)
        told = [f"{top} ({count} tensor{'s' * (count > 1)})" for top, count in counts.items()]
        return some_names(told, 12) or "nothing"


def backbone_state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The query encoder's backbone, in mmpretrain's names: :func:`find_backbone` without the rest.

    Raises:
        InputError: as :func:`find_backbone`.
    """
    return find_backbone(checkpoint).state


def find_backbone(checkpoint: Mapping[str, Any]) -> Found:
    """Recognise whose checkpoint it is by the names of its tensors, and take the backbone out.

    ======================== ====================================================================
    whose                    the backbone is under
    ======================== ====================================================================
    this project, OpenMMLab  ``backbone.`` of ``state_dict`` (mmpretrain, mmselfsup, mmdet, mmseg);
                             any architecture. What tools/export_backbone.py wrote has no prefix
    MoCo v1, v2; v3          ``module.encoder_q.``; ``module.base_encoder.``
    solo-learn               ``backbone.``, in old versions ``encoder.``
    lightly                  ``backbone.`` or ``student_backbone.``, by names or by the numbers of
                             a ``Sequential`` of torchvision's children
    SimSiam; Barlow Twins    ``module.encoder.``; ``module.backbone.`` of ``model``
    DINO                     ``backbone.`` of ``teacher``, the net that it evaluates
    torchvision, timm, SwAV  no prefix
    ======================== ====================================================================

    Foreign names are those of a ResNet with one convolution as stem, or of torchvision's
    MobileNetV2. Momentum encoders, necks, heads and queues are left over.

    Raises:
        InputError: there is no backbone, or a ResNet of another kind: names what was found.
    """
    weights, container = _weights(checkpoint)
    state, wrapper = _unwrap(weights)
    if meta_of(checkpoint).get("naming") == "openmmlab" and _all_tensors(state):
        return Found(state, "mmsalmask", "", [])
    tops = {name.partition(".")[0] for name in state}
    for whose, prefix, beside in _LAYOUTS:
        inside = {name: value for name, value in state.items() if name.startswith(prefix)}
        if not inside or (beside and not tops.intersection(beside)):
            continue
        own = {name.removeprefix(prefix): value for name, value in inside.items()}
        own, inner = _unwrap(own, _INNER_WRAPPERS)
        names = _mmpretrain_names(list(own), prefix)
        taken = {name: prefix + inner + given for given, name in names.items()}
        backbone = {name: inside[given] for name, given in taken.items()}
        if not _all_tensors(backbone):
            continue
        _refuse_other_resnets(backbone)
        left_over = [name for name in state if name not in set(taken.values())]
        whose = "DINO" if container == "teacher" else whose
        return Found(backbone, whose, wrapper + prefix + inner, left_over)
    tops = sorted({str(name).partition(".")[0] for name in weights})
    raise InputError(
        "the checkpoint holds no backbone: its keys begin with "
        f"{some_names(tops, 10) or 'nothing'}, not with 'backbone.', another encoder's known "
        "prefix or a ResNet's names"
    )


def _weights(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state dict in a checkpoint and where it lay; the checkpoint may be one itself."""
    container = next((name for name in _CONTAINERS if name in checkpoint), "")
    inner = checkpoint[container] if container else checkpoint
    return (dict(inner) if isinstance(inner, Mapping) else {}), container


def _unwrap(
    weights: Mapping[str, Any], wrappers: re.Pattern[str] = _WRAPPERS
) -> tuple[dict[str, Any], str]:
    """A state dict without the prefix that wrappers put before every name, and that prefix."""
    state = {name: value for name, value in weights.items() if isinstance(name, str)}
    removed = ""
    while state and (wrapper := wrappers.match(next(iter(state)))):
        if not all(name.startswith(wrapper[0]) for name in state):
            break
        state = {name.removeprefix(wrapper[0]): value for name, value in state.items()}
        removed += wrapper[0]
    return state, removed


def _all_tensors(state: Mapping[str, Any]) -> bool:
    return bool(state) and all(isinstance(value, Tensor) for value in state.values())


def _mmpretrain_names(given: list[str], prefix: str) -> dict[str, str]:
    """mmpretrain's name by the given one, of a backbone's tensors; empty if they are of none.

    Args:
        given: names without prefix; those of a head behind the backbone get none.
        prefix: behind OpenMMLab's, a net of any architecture has mmpretrain's names.
    """
    own = [name for name in given if not _HEADS.match(name)]
    if {name.partition(".")[0] for name in own} == _CHILDREN.keys():
        return {name: re.sub(r"^\d+", lambda top: _CHILDREN[top[0]], name) for name in own}
    if any(name.startswith("layer1.") for name in own) and all(map(_RESNET.match, own)):
        return {name: name for name in own}
    if "features.18.0.weight" in own and all(map(_MOBILENET.fullmatch, own)):
        return {name: _mobilenet_name(name) for name in own}
    return {name: name for name in given} if prefix == "backbone." else {}


def _mobilenet_name(name: str) -> str:
    """mmpretrain's name of a tensor of torchvision's MobileNetV2.

    There a convolution and its BatchNorm are ``k.0`` and ``k.1``, but for the last of a block,
    which are ``k`` and ``k + 1``; here they are ``k.conv`` and ``k.bn``.
    """
    place, step, part, tensor = _MOBILENET.fullmatch(name).groups()
    if step is None:
        return f"conv{1 if place == '0' else 2}.{('conv', 'bn')[int(part)]}.{tensor}"
    last = 1 if place == "1" else 2  # the first block does not expand
    step, part = (step, part) if part else (last, int(step) - last)
    return f"{_BLOCKS[int(place) - 1]}.conv.{step}.{('conv', 'bn')[int(part)]}.{tensor}"


def _refuse_other_resnets(state: Mapping[str, Tensor]) -> None:
    """Raise for ResNets of timm that mmpretrain's cannot hold under these names."""
    if "conv1.0.weight" in state:
        what = "a deep stem of several convolutions (conv1.0.weight)"
    elif getattr(state.get("layer1.0.downsample.1.weight"), "ndim", 0) == 4:
        what = "pooling in its shortcuts (layer1.0.downsample.1.weight is a convolution)"
    else:
        return
    raise InputError(
        f"the ResNet in the checkpoint has {what}, as timm's resnet50d: only ResNets with one 7×7 "
        "convolution as stem and plain shortcuts are converted"
    )
