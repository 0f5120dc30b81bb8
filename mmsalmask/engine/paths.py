"""Whether the data and the checkpoints that a config names are there."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmsalmask.checkpoint import local_file
from mmsalmask.config.spots import root_of, step, walk
from mmsalmask.errors import InputError


def check_data_paths(config: Mapping[str, Any], loaders: Iterable[str]) -> None:
    """Refuse folders and annotation files that do not exist, before anything is built.

    Looks at every dataset that names an ``ann_file`` or a ``data_prefix``, as those of mmdet, mmseg
    and mmpretrain do, inside wrappers too, and at the evaluators' ``ann_file``. Datasets of this
    project look for themselves; what lies behind an address or a storage backend is not looked at.

    Args:
        config: of a run.
        loaders: ``train_dataloader``, ``val_dataloader`` or ``test_dataloader``.

    Raises:
        InputError: names the key, the path, and what lies where it was looked for.
    """
    for loader in loaders:
        for key in (loader, loader.replace("dataloader", "evaluator")):
            for where, part in _parts(config.get(key), key):
                _check(where, part)


def fetch_checkpoints(config: Config, testing: bool = False) -> None:
    """Download what a config's model starts from, where it is named by an address.

    Whoever loads it, mmengine too, finds it in torch's hub folder then.

    Args:
        config: of a run.
        testing: what the model once started from need not be there.

    Raises:
        InputError: it cannot be downloaded; names the config's key.
    """
    root = root_of(config)
    tops = [key for key in ("model", "data_preprocessor", "load_from") if config.get(key)]
    for spot in (spot for key in tops for spot in walk(step(root, key))):
        named = spot.path[-1] in ("checkpoint", "load_from") and str(spot.value)
        if not named or not named.startswith(("http://", "https://", "torchvision://")):
            continue
        if testing and isinstance(spot.outer, dict) and spot.outer.get("type") == "Pretrained":
            continue
        try:
            local_file(named)
        except InputError as error:
            raise InputError(f"{spot.name}: {error}") from error


def _parts(value: Any, where: str) -> Iterator[tuple[str, dict]]:
    """Every dict that names files, with its dotted path."""
    if isinstance(value, dict):
        local = not value.get("backend_args") and "://" not in str(value.get("data_root"))
        own = str(value.get("type")).startswith("mmsalmask.")
        if local and not own and ("ann_file" in value or "data_prefix" in value):
            yield where, value
        value = value.items()
    elif isinstance(value, list | tuple):
        value = enumerate(value)
    else:
        return
    for key, inner in value:
        yield from _parts(inner, f"{where}.{key}")


def _check(where: str, part: dict) -> None:
    root = Path(part.get("data_root") or "")
    if not root.is_dir():
        raise InputError(
            f"{where}.data_root: there is no folder {root}; set data_root to where the data lies"
        )
    prefixes = part.get("data_prefix")
    names = {"ann_file": part.get("ann_file")}
    if isinstance(prefixes, dict):
        names |= {f"data_prefix.{key}": name for key, name in prefixes.items()}
    for key, name in names.items():
        path = root / (name or "")
        if "://" in str(name) or path.exists():
            continue
        there = next(parent for parent in path.parents if parent.is_dir())
        held = sorted(entry.name for entry in there.iterdir())
        more = f" and {len(held) - 5} more" if len(held) > 5 else ""
        raise InputError(
            f"{where}.{key}: there is no {path}; {there} holds "
            f"{', '.join(held[:5]) or 'nothing'}{more}"
        )
