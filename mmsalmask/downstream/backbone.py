"""The backbone of a checkpoint, as the downstream recipes take it."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mmpretrain.models import ResNet
from torch import Tensor

from mmsalmask.checkpoint import (
    check_matches,
    describe,
    find_backbone,
    load_checkpoint,
    local_file,
)
from mmsalmask.errors import InputError
from mmsalmask.shipped import CONFIGS


class Backbone(NamedTuple):
    """A checkpoint's backbone, and what of it recipes depend on.

    Attributes:
        name: folder and file of the checkpoint, for people.
        state: the backbone's own names and tensors.
        facts: as :func:`mmsalmask.checkpoint.describe` gives them.
        left_over: what else the checkpoint holds, for people.
        depth: of the ResNet.
        file: that the backbone is exported to.
    """

    name: str
    state: dict[str, Tensor]
    facts: dict[str, str]
    left_over: str
    depth: int
    file: Path

    def recipe(self, name: str) -> Path:
        """The config of a recipe, with or without filter, for MoCo or for SimCLR.

        Args:
            name: a path below ``configs``, or an absolute one, with the fields ``{filter}``, or
                ``{method}`` and ``{schedule}`` of linear evaluation.
        """
        filtered = "-highpass" if self.facts["high_pass"] == "true" else ""
        simclr = "simclr" in self.facts["model"].lower()
        method = ("simclr" if simclr else "mocov2") + "-linear" + filtered
        schedule = "coslr" if simclr else "steplr"
        return CONFIGS / name.format(filter=filtered, method=method, schedule=schedule)


def read_backbone(checkpoint: str | Path, out: Path | None, schedule: str) -> Backbone:
    """Find the backbone in a checkpoint, and say which file it shall be exported to.

    Args:
        checkpoint: of a pretraining, or an exported backbone.
        out: the folder of all results; ``None`` for one below ``work_dirs/transfer``.
        schedule: ``"full"`` or ``"small"``.

    Raises:
        InputError: for a checkpoint without backbone, and one that the recipes are not for.
    """
    source = local_file(str(checkpoint))
    content = load_checkpoint(source)
    found, facts = find_backbone(content), describe(content, source)
    depth = resnet_depth(found.state, str(checkpoint))
    if facts["style"] == "caffe":
        raise InputError(
            f"the backbone in {checkpoint} is a ResNet of style 'caffe', the recipes are for style "
            "'pytorch': its weights would fit and compute something else"
        )
    folder = source.resolve().parent.name
    out = out or Path("work_dirs/transfer") / f"{folder}-{source.stem}-{schedule}"
    name, file = f"{folder}/{source.name}", out.resolve() / "backbone.pth"
    told = f"{found.listing()} (names of {found.whose})"
    return Backbone(name, found.state, facts, told, depth, file)


def resnet_depth(state: Mapping[str, Tensor], name: str) -> int:
    """The depth of the plain ResNet whose backbone a state dict is.

    Args:
        state: as :func:`mmsalmask.checkpoint.backbone_state` gives it.
        name: of the checkpoint, for the message.

    Raises:
        InputError: for another net, one with a deep stem or of another width, for example.
    """
    stages = tuple(
        len({name.split(".")[1] for name in state if name.startswith(f"layer{stage}.")})
        for stage in range(1, 5)
    )
    for depth, (_, blocks) in ResNet.arch_settings.items():
        if blocks != stages:
            continue
        with contextlib.suppress(InputError):
            check_matches(ResNet(depth), state, name)
            return depth
    raise InputError(
        f"the backbone in {name} is no plain ResNet of {_LIST} layers, for which the downstream "
        "recipes are: use `mmsalmask knn` and `mmsalmask linear` with the config of its pretraining"
    )


_LIST = ", ".join(map(str, ResNet.arch_settings))
