"""The backbone in a checkpoint."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmsalmask.checkpoint.loading import meta_of
from mmsalmask.errors import InputError, some_names

_RESNET_TOPS = re.compile(r"(conv1|bn1|stem|layer\d)\.")


def backbone_state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The query encoder's backbone, in mmpretrain's names and without prefix.

    Known layouts: a ``state_dict`` with ``backbone.`` keys (this project's, mmpretrain's and
    mmselfsup's algorithms and classifiers), a ResNet's own state dict (torchvision's included, its
    ``fc`` is dropped), and what ``tools/export_backbone.py`` wrote in those names. The momentum
    encoder, necks, heads and queues have other prefixes and stay behind.

    Raises:
        InputError: when there is no backbone; names the prefixes that were found.
    """
    state = checkpoint.get("state_dict", checkpoint)
    if not isinstance(state, Mapping):
        state = {}
    prefixed = {
        name.removeprefix("backbone."): value
        for name, value in state.items()
        if isinstance(name, str) and name.startswith("backbone.")
    }
    backbone = prefixed or _plain_backbone(checkpoint, state)
    if not backbone or not all(isinstance(value, Tensor) for value in backbone.values()):
        tops = sorted({str(name).partition(".")[0] for name in state})
        raise InputError(
            "the checkpoint holds no backbone: its keys begin with "
            f"{some_names(tops, 10) or 'nothing'}, not with 'backbone.' or a ResNet's names"
        )
    return backbone


def _plain_backbone(checkpoint: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict that is a backbone by itself; empty if it is not."""
    if meta_of(checkpoint).get("naming") == "openmmlab":
        return dict(state)
    backbone = {
        name: value
        for name, value in state.items()
        if isinstance(name, str) and not name.startswith("fc.")
    }
    if not any(name.startswith("layer1.") for name in backbone):
        return {}
    return backbone if all(_RESNET_TOPS.match(name) for name in backbone) else {}
