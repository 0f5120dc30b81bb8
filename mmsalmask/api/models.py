"""Encoders by name: trained ones of this project, checkpoints, and untrained architectures."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from mmsalmask import shipped
from mmsalmask.api.backbones import RESNETS, backbone_config, build_backbone, channels_of
from mmsalmask.api.encoder import IMAGENET, Encoder
from mmsalmask.checkpoint import (
    check_complete,
    check_matches,
    config_of,
    find_backbone,
    load_checkpoint,
    saw_high_pass,
)
from mmsalmask.config import load_config
from mmsalmask.config.wording import ask, nearest
from mmsalmask.errors import InputError

_SUFFIXES = (".pth", ".pt", ".safetensors", ".pkl")


def list_models() -> dict[str, dict[str, Any]]:
    """The trained encoders that come with this project.

    Returns:
        By the name, for :func:`get_model`: ``config``; ``data`` and ``epochs`` of its pretraining;
        ``results``, top-1 accuracies in percent by task; and the ``weights``, a file.

    Example:
        >>> import mmsalmask as sm
        >>> for name, model in sm.list_models().items():
        ...     assert model["results"]["kNN Classification"] > 40
    """
    return {
        model["Name"]: {
            "config": f"mmsalmask::{model['Config'].removeprefix('configs/')}",
            "data": model["Metadata"].get("Training Data"),
            "epochs": model["Metadata"].get("Epochs"),
            "results": {
                result["Task"]: result["Metrics"].get("Top 1 Accuracy")
                for result in model.get("Results", [])
            },
            "weights": str(weights),
        }
        for file in sorted(shipped.CONFIGS.glob("*/metafile.yml"))
        for model in yaml.safe_load(file.read_text(encoding="utf-8"))["Models"]
        if (weights := _shipped_file(model.get("Weights"))) is not None
    }


def _shipped_file(name: str | None) -> Path | None:
    """The file of a metafile's ``Weights``, if it is there."""
    file = shipped.SHIPPED / name if name else None
    return file if file and file.is_file() else None


def get_model(name_or_checkpoint: str | os.PathLike, pretrained: bool = True) -> Encoder:
    """An encoder with its preprocessing.

    Args:
        name_or_checkpoint: a name of :func:`list_models`; a checkpoint file or address, of a run
            here or of anybody's (see :func:`mmsalmask.checkpoint.find_backbone`); or an
            architecture: ``resnet50``, any ConvNet of torchvision, ``timm/<name>``.
        pretrained: with its weights. For an architecture, ImageNet's, from its library. Without,
            those of seed 0.

    Returns:
        The encoder in eval mode, on the CPU. A checkpoint that says nothing of its preprocessing
        gets ImageNet's mean and std at 224 px.

    Raises:
        InputError: there is no such name, file or address, or the file holds something else.

    Example:
        >>> import mmsalmask as sm
        >>> sm.get_model("resnet18", pretrained=False).size
        224
    """
    name = os.fspath(name_or_checkpoint)
    known = list_models()
    if name in known:
        config = load_config(known[name]["config"])
        encoder = _with_weights(known[name]["weights"], config, name, pretrained)
    elif Path(name).suffix in _SUFFIXES or "://" in name or Path(name).exists():
        encoder = _with_weights(name, None, Path(name).name, pretrained)
    else:
        encoder = _architecture(name, pretrained, known)
    return encoder.eval()


def _architecture(name: str, pretrained: bool, known: Mapping[str, Any]) -> Encoder:
    try:
        backbone = backbone_config(name, pretrained)
    except InputError as error:
        near = nearest(name, {model: model for model in known}, count=3)
        if not near:
            told = f"{error}; nor is it a file or a model of `mmsalmask models`"
            raise InputError(told) from error
        raise InputError(f"no model named '{name}'{ask(near)}") from error
    built = build_backbone(backbone)
    channels_of(built)  # or an error
    return Encoder(built, _plain_config(backbone, False), name)


def _with_weights(file: str, config: Mapping | None, name: str, pretrained: bool) -> Encoder:
    """The encoder of a checkpoint, as its own config describes it or the one that is given."""
    content = load_checkpoint(file)
    found = find_backbone(content)
    if config is None:
        config = config_of(content)
        if not isinstance((config.get("model") or {}).get("backbone"), dict):
            # The shape of its tensors tells; what is built must fit them without remainder.
            high_pass = bool(saw_high_pass(content))
            config = _plain_config(_resnet_of(found.state, file), high_pass)
        elif saw_high_pass(content) is False:
            # Whatever class masked its views, which need not be imported: images stay plain.
            for outer in (config, config["model"]):
                (outer.get("data_preprocessor") or {}).pop("masker", None)
    backbone = {
        key: value for key, value in config["model"]["backbone"].items() if key != "init_cfg"
    }
    net = build_backbone(backbone)
    check_complete(found.state, backbone, file)
    state = {key: value for key, value in found.state.items() if not key.startswith("fc.")}
    check_matches(net, state, file)
    if pretrained:
        net.load_state_dict(state, strict=False)  # num_batches_tracked may be absent
    return Encoder(net, config, name)


def _plain_config(backbone: Mapping[str, Any], high_pass: bool) -> dict[str, Any]:
    preprocessor = dict(type="mmsalmask.MaskingDataPreprocessor", **IMAGENET)
    if high_pass:
        strategy = dict(type="mmsalmask.HighPassNoise")
        preprocessor["masker"] = dict(type="mmsalmask.SaliencyMasker", strategy=strategy)
    return dict(model=dict(backbone=dict(backbone), data_preprocessor=preprocessor))


def _resnet_of(state: Mapping[str, Tensor], file: str) -> dict[str, Any]:
    """The config of the plain ResNet that has these tensors.

    Raises:
        InputError: none has.
    """
    from mmpretrain.models import ResNet

    blocks = re.findall(r"^layer(\d)\.(\d+)\.conv1\.weight$", "\n".join(state), re.MULTILINE)
    stages = tuple(sum(stage == str(number) for stage, _ in blocks) for number in range(1, 5))
    kind = "Bottleneck" if any(".conv3." in key for key in state) else "BasicBlock"
    for depth, (block, wanted) in ResNet.arch_settings.items():
        if depth in RESNETS.values() and block.__name__ == kind and wanted == stages:
            width = len(state["layer1.0.conv1.weight"])
            stem = len(state["conv1.weight"]) if "conv1.weight" in state else width
            own = {} if width == stem == 64 else dict(base_channels=width, stem_channels=stem)
            return dict(type="ResNet", depth=depth, **own)
    raise InputError(
        f"{file} does not say which net it belongs to, and its tensors are not those of a ResNet: "
        "give a checkpoint of a run here, which holds its config"
    )


def as_encoder(model: Any) -> Encoder:
    """The encoder of whatever a user may give for one: itself, a run, a name or a checkpoint.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(model, Encoder):
        return model
    if isinstance(model, str | os.PathLike):
        return get_model(model)
    if hasattr(model, "checkpoint"):
        return get_model(model.checkpoint)
    raise InputError(
        f"a model must be a name, a checkpoint, a run or what get_model returns, got a "
        f"{type(model).__name__}: Encoder(backbone, config, name) gives a module of yours its "
        "preprocessing"
    )


def untrained(encoder: Encoder, seed: int = 0) -> Encoder:
    """An encoder of the same architecture and preprocessing with first weights."""
    config = dict((encoder.config.get("model") or {}).get("backbone") or {})
    if not config:
        raise InputError(f"{encoder.name} has no model.backbone in its config to build anew")
    for key in ("init_cfg", "weights", "pretrained", "checkpoint_path"):
        config.pop(key, None)
    return Encoder(build_backbone(config, seed), encoder.config, f"untrained {encoder.name}").eval()
