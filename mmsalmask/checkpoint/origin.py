"""Where a backbone comes from, and whether it learned from high-pass filtered images."""

import ast
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger

import mmsalmask
from mmsalmask.checkpoint.loading import meta_of
from mmsalmask.errors import some_names
from mmsalmask.masking import Strategy
from mmsalmask.registry import TRANSFORMS


def describe(checkpoint: Mapping[str, Any], source: Path) -> dict[str, str]:
    """Where an exported backbone comes from, as the strings that its file carries.

    ``mmsalmask_version``; ``source`` and ``source_sha256`` of the file; ``model``, ``backbone``,
    ``depth`` and ``style`` from the config in the checkpoint (read, not executed), ``epoch`` and
    ``iter``; ``high_pass``: "true" if the encoder saw high-pass filtered images and so needs them
    downstream, "false" if not. What cannot be known is "unknown"; what an exported file says about
    itself is passed on.
    """
    meta = meta_of(checkpoint)
    model = config_of(checkpoint).get("model")
    known = {name: meta[name] for name in ("epoch", "iter") if name in meta}
    if isinstance(model, dict):
        backbone = model.get("backbone")
        backbone = backbone if isinstance(backbone, dict) else {}
        # What a ResNet of mmpretrain is where its config says nothing.
        style = "pytorch" if "depth" in backbone else None
        known |= {
            "model": model.get("type"),
            "backbone": backbone.get("type"),
            "depth": backbone.get("depth"),
            "style": backbone.get("style", style),
        }
    elif "mmsalmask_version" in meta:
        known |= {name: meta.get(name) for name in _FACTS}
    high_pass = saw_high_pass(checkpoint)
    known["high_pass"] = None if high_pass is None else str(high_pass).lower()
    return {
        "mmsalmask_version": mmsalmask.__version__,
        "source": source.name,
        "source_sha256": _sha256(source),
        **{
            name: "unknown" if known.get(name) is None else str(known[name])
            for name in (*_FACTS, "epoch", "iter")
        },
    }


_FACTS = ("model", "backbone", "depth", "style", "high_pass")


def saw_high_pass(checkpoint: Mapping[str, Any]) -> bool | None:
    """Whether the encoder in a checkpoint learned from high-pass filtered images.

    A run's checkpoint and an exported backbone say it; earlier checkpoints tell it by their config.
    ``None`` for one that tells nothing: torchvision's, for example, or an earlier one whose
    strategy is a class that has not been imported here.
    """
    told = {"true": True, "false": False}.get(str(meta_of(checkpoint).get("high_pass")).lower())
    config = config_of(checkpoint)
    if told is None and isinstance(config.get("model"), dict):
        known = all(strategy in Strategy.registered() for strategy in _strategies(config))
        return is_high_pass(config) if known else None
    return told


def is_high_pass(config: Mapping[str, Any], loader: str = "train_dataloader") -> bool:
    """Whether a config's masking strategy or the pipeline of ``loader`` filters the images.

    The classes say so: strategies and transforms have an attribute ``filters``.
    """
    TRANSFORMS.import_from_location()
    classes = {**TRANSFORMS.module_dict, **Strategy.registered()}
    return any(
        getattr(classes.get(_class_name(part)), "filters", False)
        for name in ("model", "data_preprocessor", loader)
        for part in typed_parts(config.get(name))
    )


def view_size(config: Mapping[str, Any]) -> int:
    """The side in pixels of the views that a config trains with; 224 where it says nothing."""
    for part in typed_parts([config.get("model"), config.get("data_preprocessor")]):
        if part["type"].endswith("RandomView"):
            return part.get("size", 224)
    for part in typed_parts(config.get("train_dataloader")):
        if part["type"].endswith("RandomResizedCrop"):
            scale = part["scale"]
            return scale if isinstance(scale, int) else scale[0]
    return 224


def _strategies(config: Mapping[str, Any]) -> Iterator[str]:
    """Names of the strategies of all maskers of a config."""
    for name in ("model", "data_preprocessor"):
        for part in typed_parts(config.get(name)):
            if _class_name(part) == "SaliencyMasker":
                yield from map(_class_name, typed_parts(part.get("strategy")))


def _class_name(part: Mapping[str, Any]) -> str:
    return part["type"].rpartition(".")[2]


def warn_if_filter_differs(
    checkpoint: Mapping[str, Any], name: str, filtered: Mapping[str, bool]
) -> None:
    """Warn loudly where images lack the high-pass filter that a backbone learned with, or have one.

    Such a backbone still computes something, but its figures are far too low. Every way to use a
    backbone checks this: ``tools/train.py`` and ``tools/test.py`` for all files that the config's
    model starts from, whatever the library, ``tools/knn.py`` and ``tools/linear.py`` for theirs.
    A checkpoint that does not say how it was pretrained leads to no warning.

    Args:
        checkpoint: as :func:`load_checkpoint` reads it, a run's or an exported backbone.
        name: of the checkpoint, for the message.
        filtered: whether images are high-pass filtered, by their name in the message, for
            example ``{"train_dataloader": True, "test_dataloader": False}``.
    """
    expected = saw_high_pass(checkpoint)
    different = [images for images, answer in filtered.items() if answer != expected]
    if expected is None or not different:
        return
    learned, given, mend = (
        ("HIGH-PASS FILTERED", "not filtered", "with mmsalmask.HighPassFilter in")
        if expected
        else ("PLAIN", "high-pass filtered", "without mmsalmask.HighPassFilter in")
    )
    MMLogger.get_current_instance().warning(
        f"{name} LEARNED FROM {learned} IMAGES, but those of {some_names(different)} are {given}: "
        f"its figures will be far too low. Use the config of its pretraining, or one {mend} the "
        "pipelines of training and test"
    )


def config_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The config in a run's checkpoint; empty if it has none or it cannot be read."""
    text = meta_of(checkpoint).get("cfg")
    return read_config(text) if isinstance(text, str) else {}


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def typed_parts(part: Any) -> Iterator[dict[str, Any]]:
    """Every dict with a ``type='...'`` in a nest of dicts, lists and tuples."""
    if isinstance(part, dict):
        if isinstance(part.get("type"), str):
            yield part
        part = list(part.values())
    if isinstance(part, (list, tuple)):
        for value in part:
            yield from typed_parts(value)


def read_config(text: str) -> dict[str, Any]:
    """The values of a config text as mmengine writes it, read without executing it.

    ``mmengine.Config.fromstring`` runs the text as Python. Here only assignments of literals and of
    ``dict(name=...)`` are understood; a text with anything else gives an empty dict.
    """
    try:
        return {
            target.id: _literal(statement.value)
            for statement in ast.parse(text).body
            for target in _targets(statement)
        }
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return {}


def _targets(statement: ast.stmt) -> list[ast.Name]:
    if isinstance(statement, ast.Assign) and all(
        isinstance(t, ast.Name) for t in statement.targets
    ):
        return statement.targets
    raise ValueError("not an assignment")


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        plain = isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args
        if plain and all(keyword.arg for keyword in node.keywords):
            return {keyword.arg: _literal(keyword.value) for keyword in node.keywords}
        raise ValueError("a call")
    if isinstance(node, ast.Dict) and all(node.keys):
        return {
            ast.literal_eval(key): _literal(value)
            for key, value in zip(node.keys, node.values, strict=True)
        }
    if isinstance(node, (ast.List, ast.Tuple)):
        values = [_literal(element) for element in node.elts]
        return values if isinstance(node, ast.List) else tuple(values)
    if isinstance(node, ast.Name) and node.id in ("inf", "nan"):
        return float(node.id)
    return ast.literal_eval(node)
