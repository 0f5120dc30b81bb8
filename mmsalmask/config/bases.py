"""What a config that inherits another adds to it, where mmengine would replace it."""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from mmengine.config import Config


def read_with_bases(file: Path) -> Config:
    """A config with its bases.

    A child's ``data_root`` that nothing in the child reads takes the place of its base's wherever a
    dataset has that, and its ``custom_imports`` are added to its base's; mmengine would replace a
    lone value and a list.
    """
    cfg = _parsed(file)
    if not _replaces(file):
        return cfg
    below = [_parsed(base) for base in _lineage(file)]
    root = cfg.get("data_root")
    if root and not any(_lies_in(root, cfg[key]) for key in cfg if key != "data_root"):
        for base in below:
            if base.get("data_root") is not None:
                carry_data_root(cfg, base.data_root, root)
    if imports_of(cfg):
        add_imports(cfg, chain(*map(imports_of, below)))
    return cfg


def imports_of(cfg: Config) -> list[str]:
    """The modules that a config imports."""
    names = (cfg.get("custom_imports") or {}).get("imports") or []
    return [names] if isinstance(names, str) else list(names)


def add_imports(cfg: Config, names: Iterable[str]) -> None:
    """Let a config import these modules before its own."""
    both = list(dict.fromkeys([*names, *imports_of(cfg)]))
    cfg.custom_imports = {**(cfg.get("custom_imports") or {}), "imports": both}


def _lies_in(folder: str, value: Any) -> bool:
    """Whether a path in a nest of containers is a folder, or lies in it."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return any(_lies_in(folder, part) for part in value)
    return isinstance(value, str) and f"{value}/".startswith(f"{str(folder).rstrip('/')}/")


def _replaces(file: Path) -> bool:
    """Whether a config, or one of its bases, says anew what its own base may have said."""
    bases = _bases(file)
    own = re.compile(r'(^|")(data_root|custom_imports)\b', re.MULTILINE)  # a quote in JSON
    return bool(bases) and (
        own.search(file.read_text(encoding="utf-8")) is not None or any(map(_replaces, bases))
    )


def _lineage(file: Path) -> Iterator[Path]:
    """The bases of a config, those that others build on first."""
    for base in _bases(file):
        yield from _lineage(base)
        yield base


def _bases(file: Path) -> list[Path]:
    names = Config._get_base_files(str(file))
    return [Path(Config._get_cfg_path(name, str(file))[0]) for name in names]


def _parsed(file: Path) -> Config:
    """The config of a file as mmengine reads it.

    ``custom_imports`` may name what lies beside the config, or where one is.
    """
    with suppress(ImportError):
        return Config.fromfile(str(file))
    places = str(file.resolve().parent), os.getcwd()
    sys.path += [place for place in places if place not in sys.path]
    return Config.fromfile(str(file))


def carry_data_root(cfg: Config, old: Any, new: Any) -> None:
    """Put a new folder where the old one stands, or a path below it."""
    folder = old.rstrip("/") if isinstance(old, str) else ""

    def carry(value: Any) -> Any:
        if isinstance(value, dict):
            for key in value:
                # An empty root is no name that could be recognised elsewhere.
                moved = key == "data_root" and value[key] == old
                value[key] = new if moved else carry(value[key])
        elif isinstance(value, list | tuple):
            return type(value)(carry(item) for item in value)
        elif folder and isinstance(value, str) and value == old:
            return new
        elif folder and isinstance(value, str) and value.startswith(f"{folder}/"):
            return str(new).rstrip("/") + value[len(folder) :]
        return value

    for key in cfg:
        if key != "data_root":
            cfg[key] = carry(cfg[key])
