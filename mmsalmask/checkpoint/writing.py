"""Writing a backbone for other libraries."""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save
from torch import Tensor

from mmsalmask.checkpoint.checks import check_complete
from mmsalmask.checkpoint.layouts import Found, find_backbone
from mmsalmask.checkpoint.loading import load_checkpoint
from mmsalmask.checkpoint.names import to_detectron2, to_timm, to_torchvision
from mmsalmask.checkpoint.origin import config_of, describe
from mmsalmask.errors import InputError, some_names
from mmsalmask.files import write_atomically

Naming = Literal["openmmlab", "torchvision", "timm", "detectron2"]


def export_file(
    source: Path, file: Path, naming: Naming
) -> tuple[Found, dict[str, str], dict[str, Tensor]]:
    """Take the backbone out of a checkpoint's file and write it into another.

    Returns:
        What was found, its facts as :func:`describe` gives them, and the tensors as written.

    Raises:
        InputError: there is no backbone, or a part of one, or it does not fit the names or file.
    """
    content = load_checkpoint(source)
    found = find_backbone(content)
    backbone = (config_of(content).get("model") or {}).get("backbone")
    check_complete(found.state, backbone, str(source))
    facts = describe(content, source)
    if naming in ("torchvision", "timm") and facts["style"] == "caffe":
        raise InputError(
            f"a ResNet of style 'caffe' has its stride in other layers than {naming}'s ResNet: its "
            "weights would fit and compute something else"
        )
    return found, facts, save_backbone(found.state, file, naming, facts)


def save_backbone(
    state: Mapping[str, Tensor], path: str | Path, naming: Naming, metadata: Mapping[str, str]
) -> dict[str, Tensor]:
    """Write a backbone under the names of ``naming``; the file appears whole or not at all.

    ``.pth``: ``dict(state_dict=..., meta=metadata)``. ``.safetensors``: the tensors, the metadata
    in the header. detectron2's own layout, ``.pkl`` (NumPy arrays) or ``.pth``: ``dict(model=...,
    __author__=..., matching_heuristics=True, meta=metadata)``.

    Args:
        state: in mmpretrain's names, see :func:`backbone_state`.

    Returns:
        The tensors as written.

    Raises:
        InputError: for tensors that are not finite or have no place under those names, a suffix
            that does not fit, and a file that cannot be written (a full disk); what lay there
            before stays.
    """
    path = Path(path)
    bad = [name for name, value in state.items() if not value.isfinite().all()]
    if bad:
        raise InputError(
            f"{len(bad)} of the backbone's {len(state)} tensors hold values that are not finite "
            f"({some_names(bad, 2)}): look for a diverged run behind this checkpoint"
        )
    convert = {
        "openmmlab": dict,
        "torchvision": to_torchvision,
        "timm": to_timm,
        "detectron2": to_detectron2,
    }
    # A copy of each: a view would bring its whole storage into the file.
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in convert[naming](state).items()
    }
    content = _serialised(path, naming, tensors, {**metadata, "naming": naming})
    try:
        write_atomically(path, content)
    except OSError as error:
        raise InputError(
            f"could not write {path} ({error.strerror}): make room or give permission, or name "
            "another file"
        ) from error
    return tensors


def _serialised(
    path: Path, naming: Naming, tensors: dict[str, Tensor], metadata: dict[str, str]
) -> bytes:
    wrapper = {"__author__": "mmsalmask", "matching_heuristics": True, "meta": metadata}
    if path.suffix == ".safetensors":
        return save(tensors, metadata)
    if path.suffix == ".pth":
        own = {"state_dict": tensors, "meta": metadata}
        content = io.BytesIO()
        torch.save({"model": tensors, **wrapper} if naming == "detectron2" else own, content)
        return content.getvalue()
    if path.suffix == ".pkl" and naming == "detectron2":
        arrays = {name: value.numpy() for name, value in tensors.items()}
        return pickle.dumps({"model": arrays, **wrapper}, protocol=2)
    raise InputError(
        f"cannot write {path.name} for {naming}: use .pth or .safetensors, "
        "or .pkl for detectron2 alone"
    )
