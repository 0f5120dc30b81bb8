"""Reading a config file, and merging the options of the command line into it."""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmsalmask.config.checking import TOOL_KEYS, TOP_KEYS, accepted_by
from mmsalmask.config.spots import Spot, root_of, step, walk
from mmsalmask.config.wording import ask, nearest
from mmsalmask.errors import InputError, place_of
from mmsalmask.shipped import CONFIGS

# Recipes that made views on the device had this in their names, beside twins that did not.
_DEVICE = re.compile(r"-device(?=_demo\.py$|-coslr-200e_(folder|in100)\.py$)")


def config_file(name: str | Path) -> Path:
    """The file that a config argument names.

    ``mmsalmask::demo/…`` lies in the package. A recipe that was once published as ``…-device…`` is
    the one without this word, which makes its views on the device, too.
    """
    package, mark, inner = str(name).partition("::")
    file = CONFIGS / inner if mark and package == "mmsalmask" else Path(name)
    today = file.with_name(_DEVICE.sub("", file.name))
    return today if today.is_file() and not file.exists() else file


def _spelled(file: Path) -> str:
    """What a user writes for a config file."""
    if file.is_relative_to(CONFIGS):
        return f"mmsalmask::{file.relative_to(CONFIGS)}"
    return str(file)


def load_config(path: str, options: dict[str, Any] | None = None) -> Config:
    """Read a config file and merge the options of the command line into it.

    Args:
        path: A config file (``.py``, ``.yaml``, ``.yml``, ``.json``), or ``mmsalmask::`` and one
            of this package.
        options: What ``mmengine.DictAction`` made of ``--cfg-options``: dotted path → value. A
            number in a path counts into a list (``train_pipeline.0.scale``).

    mmengine evaluates a file's variables before it merges options, so an override of a top-level
    variable such as ``base_lr`` or ``train_pipeline`` would change nothing. It is refused if its
    value is found among what mmengine reads. ``data_root`` is the exception: it is carried to
    every entry that held the old value or a path below it, unless an option names that entry. A
    dataset's path, unlike a number, does not equal unrelated entries by chance.

    Raises:
        InputError: The file is missing or cannot be read as a config; an option names a key that
            neither exists nor is accepted by what it would be added to, or would have no effect.
    """
    return override(_read(path), options or {})


def override(cfg: Config, options: Mapping[str, Any]) -> Config:
    """Merge options into a config, in place, as :func:`load_config` does."""
    _refuse_nested_options(options)
    old_root = cfg.get("data_root")
    if "data_root" in options and old_root is not None:
        _carry_data_root(cfg, old_root, options["data_root"])
    # A new `type` decides which keys may stand beside and below it: types first, outer ones ahead.
    types = [key for key in options if key.rpartition(".")[2] == "type"]
    others = {key: value for key, value in options.items() if key not in types}
    ordered = sorted(types, key=lambda key: key.count("."))
    for group in (*({key: options[key]} for key in ordered), others):
        for key in group:
            _check_option(cfg, key)
            _check_effect(cfg, key)
        cfg.merge_from_dict(group)
    return cfg


def _read(path: str) -> Config:
    file = config_file(path)
    if not file.is_file():
        raise InputError(_missing_file(file))
    if file.suffix not in (".py", ".yaml", ".yml", ".json"):
        raise InputError(f"'{path}' is no config file: its name must end in .py, .yaml or .json")
    try:
        return _joined(file)
    except ImportError as error:
        first = _deepest(error)
        where = place_of(first)
        advice = "" if where else ": put the module beside the config, or install it"
        raise InputError(
            f"config '{path}' imports what cannot be imported ({first}{where}){advice}"
        ) from error
    except SyntaxError as error:
        file = (_files_being_read(error) or [path])[-1]
        line = f", line {error.lineno}" if error.lineno else ""
        raise InputError(f"syntax error in config '{file}'{line}: {error.msg}") from error
    except FileNotFoundError as error:
        reading = _files_being_read(error)
        missing = re.search(r'file "(.+?)" does not exist', str(error))
        if missing and Path((reading or [file])[-1]).is_file():  # a base of another package
            reading = [*(reading or [path]), missing[1]]
        if len(reading) < 2 or Path(reading[-1]).is_file():
            raise InputError(f"config '{path}' cannot be read: {error}") from error
        child, base = reading[-2:]
        near = _nearest_files(Path(base))
        raise InputError(
            f"config '{child}' names a _base_ that does not exist: '{base}'{ask(near)}"
        ) from error
    except InputError:  # of a base
        raise
    except Exception as error:
        file = (_files_being_read(error) or [path])[-1]
        told = f"{type(error).__name__}: {error}{place_of(error)}"
        raise InputError(f"config '{file}' cannot be read: {told}") from error


def _joined(file: Path) -> Config:
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
                _carry_data_root(cfg, base.data_root, root)
    named = [each.custom_imports for each in (*below, cfg) if each.get("custom_imports")]
    lists = [[part.imports] if isinstance(part.imports, str) else part.imports for part in named]
    if lists:
        cfg.custom_imports.imports = list(dict.fromkeys(chain(*lists)))
    return cfg


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
    own = re.compile(r"^(data_root|custom_imports)\b", re.MULTILINE)
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


def _deepest(error: BaseException) -> BaseException:
    """What the import of a module that ``custom_imports`` names failed by.

    mmengine tells that a config cannot be read, because of a module that cannot be imported, whose
    own error is the third.
    """
    for _ in range(2):
        error = error.__cause__ or error.__context__ or error
    return error


def _files_being_read(error: BaseException) -> list[str]:
    """Return the chain of config files that mmengine was reading; its errors do not name them."""
    files = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "_file2dict":
            files.append(str(trace.tb_frame.f_locals["filename"]))
        trace = trace.tb_next
    return files


def _missing_file(file: Path) -> str:
    kind = "a folder, not a config file" if file.is_dir() else "not there"
    return f"config '{_spelled(file)}' is {kind}{ask(_nearest_files(file))}"


def _nearest_files(file: Path) -> list[str]:
    """Return up to three config files with the nearest names, those of the same folder first."""
    folder = file if file.is_dir() else file.parent
    near = nearest(file.name, {p.name: _spelled(p) for p in sorted(folder.glob("*.py"))}, count=3)
    for configs in (Path("configs"), CONFIGS):
        everywhere = {p.name: _spelled(p) for p in sorted(configs.rglob("*.py"))}
        near = near or nearest(file.name, everywhere, count=3)
    return near


# --------------------------------------------------------------------------------------- options


def _refuse_nested_options(options: Iterable[str]) -> None:
    for key in options:
        parts = key.split(".")
        for end in range(1, len(parts)):
            outer = ".".join(parts[:end])
            if outer in options:
                raise InputError(f"options '{outer}' and '{key}' contradict each other: give one")


def _carry_data_root(cfg: Config, old: Any, new: Any) -> None:
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


def _check_option(cfg: Config, key: str) -> None:
    """Refuse a dotted path that leads nowhere."""
    spot = root_of(cfg)
    for part in key.split("."):
        if isinstance(spot.value, list):
            if not part.isdigit():
                raise InputError(
                    f"no config key '{key}': {spot.name} is a list, count into it: {spot.name}.0"
                )
            if int(part) >= len(spot.value):
                raise InputError(
                    f"no config key '{key}': {spot.name} has {len(spot.value)} entries, "
                    "counted from 0"
                )
        elif not isinstance(spot.value, dict):
            raise InputError(
                f"no config key '{key}': {spot.name} is {spot.value!r}, which holds no keys"
            )
        elif part not in spot.value:
            _check_new_key(cfg, spot, part, key)
            return
        spot = step(spot, part)


def _check_new_key(cfg: Config, spot: Spot, part: str, key: str) -> None:
    if part in ("type", "_delete_", "_scope_") and spot.path:
        return
    accepted = accepted_by(spot)
    if any(parameters.accepts(part) for parameters in accepted):
        return
    names = [name for parameters in accepted for name in parameters.names]
    siblings = {name: ".".join((*spot.path, name)) for name in (*spot.value, *names)}
    near = nearest(part, siblings) or _same_ending(cfg, key)
    if not near and spot.path:
        known = ", ".join(sorted(siblings)) or "none"
        raise InputError(
            f"no config key '{key}': the keys of {spot.name} are {known} "
            "(one that is new here must be written in a config file)"
        )
    raise InputError(f"no config key '{key}'{ask(near)}")


def _check_effect(cfg: Config, key: str) -> None:
    """Refuse an option for a helper variable whose value has gone into the config already."""
    parts = key.split(".")
    if parts[0] in (*TOP_KEYS, *TOOL_KEYS, "data_root"):
        return
    spot = root_of(cfg)
    for end, part in enumerate(parts, 1):
        if isinstance(spot.value, dict) and part not in spot.value:
            return
        spot = step(spot, part)
        # A lone number deep in a variable stands in too many places to say where it went.
        places = _places(cfg, spot.value) if end == 1 or isinstance(spot.value, dict | list) else []
        if places:
            names = [".".join((place, *parts[end:])) for place in places]
            near = nearest(parts[-1], {name: name for name in names}, count=3, cutoff=0)
            *others, last = [*near, *([f"{len(names) - 3} others"] if len(names) > 3 else [])]
            raise InputError(
                f"'{key}' was read while the config was parsed, overriding it has no effect: "
                f"override {', '.join(others)}{' or ' if others else ''}{last} instead"
            )


def _places(cfg: Config, value: Any) -> list[str]:
    """The places of this value among what mmengine reads; none for values too common to tell.

    A dict also stands where it was added to, as a masker without its localizer.
    """
    if isinstance(value, bool) or value in (None, "", [], {}, ()):
        return []
    root = root_of(cfg)
    spots = (s for key in cfg if key in (*TOP_KEYS, *TOOL_KEYS) for s in walk(step(root, key)))
    return [spot.name for spot in spots if _holds(spot.value, value)]


def _holds(found: Any, value: Any) -> bool:
    if isinstance(value, dict) and isinstance(found, dict):
        return found | value == found
    return type(found) is type(value) and found == value


def _same_ending(cfg: Config, key: str) -> list[str]:
    """Find the shortest path that ends alike: ``max_epochs`` → ``train_cfg.max_epochs``."""
    last = key.rpartition(".")[2]
    names = [s.name for s in walk(root_of(cfg)) if s.path and s.path[-1] == last]
    return sorted(names, key=lambda name: (name.count("."), name))[:1]
