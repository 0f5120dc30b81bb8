"""Reading a config file, and merging the options of the command line into it."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmsalmask.config.bases import carry_data_root, read_with_bases
from mmsalmask.config.checking import TOOL_KEYS, TOP_KEYS, accepted_by
from mmsalmask.config.spots import Spot, root_of, step, walk
from mmsalmask.config.wording import ask, nearest
from mmsalmask.errors import InputError, place_of
from mmsalmask.shipped import CONFIGS

# Recipes that made views on the device had this in their names, beside twins that did not.
_DEVICE = re.compile(r"-device(?=_demo\.py$|-coslr-200e_(folder|in100)\.py$)")

_DICT = re.compile(r"dict\(|\{['\"]")


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
    _refuse_written_dicts(options)
    old_root = cfg.get("data_root")
    if "data_root" in options and old_root is not None:
        carry_data_root(cfg, old_root, options["data_root"])
    # What is deleted goes first, then a new `type`, which decides which keys may stand beside and
    # below it; outer ones ahead.
    first = {"_delete_": 0, "type": 1}
    ranks = {key: first.get(key.rpartition(".")[2], 2) for key in options}
    ahead = sorted(
        (key for key in options if ranks[key] < 2), key=lambda key: (ranks[key], key.count("."))
    )
    others = {key: value for key, value in options.items() if ranks[key] == 2}
    for group in (*({key: options[key]} for key in ahead), others):
        for key in group:
            _check_option(cfg, key, group[key])
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
        return read_with_bases(file)
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


def _refuse_written_dicts(options: Mapping[str, Any]) -> None:
    """Refuse code of a dict, which would stay the text that it is."""
    for key, value in options.items():
        for word in value if isinstance(value, list | tuple) else [value]:
            if isinstance(word, str) and _DICT.match(word):
                raise InputError(
                    f"'{key}' is given a dict as text, {word!r}: give its keys one by one, such as "
                    f"{key}.type=…, or write it in a config file"
                )


def _check_option(cfg: Config, key: str, value: Any) -> None:
    """Refuse a dotted path that leads nowhere, or to where no such value can be put."""
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
    if isinstance(spot.outer, list) and not isinstance(value, dict):
        outer = key.rpartition(".")[0]
        raise InputError(
            f"'{key}' would replace an entry of a list: override the keys of the entry, such as "
            f"{key}.type, or give the whole list, {outer}=…"
        )


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
