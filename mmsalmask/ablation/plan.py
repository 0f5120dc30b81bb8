"""The rows of a plan, and the configs that they stand for."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from pprint import pformat
from tempfile import TemporaryDirectory
from typing import NamedTuple

import yaml
from mmengine.config import Config

from mmsalmask.cli import config_arguments
from mmsalmask.config import check_config, config_file, load_config
from mmsalmask.data import ImageFolder
from mmsalmask.errors import InputError
from mmsalmask.evaluation.features import bands_of
from mmsalmask.evaluation.knn import check_neighbours
from mmsalmask.evaluation.labelled import count_classes, labelled_folders
from mmsalmask.files import write_atomically

# Images whose kNN accuracy is followed during pretraining: enough for a curve.
CURVE_IMAGES = 1000


class Row(NamedTuple):
    """One line of the table: what is trained, or left untrained."""

    name: str
    config: str
    overrides: list[str]
    pretrain: bool
    settings: dict

    @property
    def folder(self) -> str:
        """Its name as that of a folder."""
        return re.sub(r"[^\w.-]+", "-", self.name)


@dataclass(frozen=True)
class Settings:
    """What all rows of an ablation share; the arguments of ``mmsalmask.commands.ablate.ablate``.

    ``train`` and ``judged`` are what is trained on and classified.
    """

    data: str
    train: str | Path
    judged: str | Path
    work_dir: Path
    holdout: float | None = None
    test: str | None = None
    train_per_class: int | None = None
    size: int = 64
    k: int = 20
    linear: bool = False
    curve: int | None = None
    workers: int = 2
    amp: str | None = None
    cfg_options: Sequence[str] = ()


def read_plan(path: Path, only: list[str] | None = None) -> list[Row]:
    """The rows of a plan, each with its config and all its overrides.

    Raises:
        InputError: The file is missing, not YAML, or not of the form that the module describes.
    """
    try:
        plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such plan") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    _refuse_other_keys(plan, {"config", "settings", "overrides", "rows"}, str(path))
    entries = plan.get("rows")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path} has no rows; give a list of them, each with a name")
    rows = [_read_row(path, plan, entry) for entry in entries]
    names = [row.name for row in rows]
    for row, other in combinations(rows, 2):
        if row.folder == other.folder:
            raise InputError(
                f"{path} has two rows named {row.name!r} and {other.name!r}, whose folder is the "
                f"same, {row.folder}: rename one"
            )
    if unknown := sorted(set(only or ()) - set(names)):
        raise InputError(f"--rows: {path} has no row {unknown[0]!r}, but {', '.join(names)}")
    return [row for row in rows if not only or row.name in only]


def _read_row(path: Path, plan: dict, entry: dict) -> Row:
    known = {"name", "config", "settings", "overrides", "pretrain"}
    _refuse_other_keys(entry, known, f"a row of {path}")
    if "name" not in entry:
        raise InputError(f"{path}: a row has no name")
    name = str(entry["name"])
    config = entry.get("config", plan.get("config"))
    if config is None:
        raise InputError(f"{path}: neither row {name!r} nor the plan as a whole has a config")
    overrides = [*_overrides(str(path), plan), *_overrides(f"row {name!r} of {path}", entry)]
    both = [each.get("settings") or {} for each in (plan, entry)]
    if not all(isinstance(each, dict) for each in both):
        raise InputError(f"{path}: settings of row {name!r} are no mapping, as a config's are")
    settings = _plain(Config._merge_a_into_b(both[1], both[0]))
    pretrain = entry.get("pretrain", True)
    return Row(name, str(path.parent / config_file(config)), overrides, pretrain, settings)


def _overrides(where: str, mapping: dict) -> list[str]:
    found = mapping.get("overrides") or []
    if not isinstance(found, list) or not all("=" in str(each) for each in found):
        raise InputError(
            f"overrides of {where} must be a list such as [train_cfg.max_epochs=20], got {found!r}"
        )
    return found


def _refuse_other_keys(mapping: object, known: set[str], where: str) -> None:
    if not isinstance(mapping, dict):
        raise InputError(f"{where} is not a mapping with the keys {', '.join(sorted(known))}")
    if unknown := sorted(set(mapping) - known):
        raise InputError(
            f"{where} has the key {unknown[0]!r}; known are {', '.join(sorted(known))}"
        )


def check_rows(rows: list[Row], settings: Settings) -> set[int | None]:
    """Read every config with its settings and overrides, so that no mistake waits for its turn.

    Returns:
        The channels that the configs read images with, see
        :func:`mmsalmask.evaluation.features.bands_of`.
    """
    channels = set()
    parser = argparse.ArgumentParser()
    config_arguments(parser)
    with TemporaryDirectory() as folder:
        for row in rows:
            words = [*row.overrides, *settings.cfg_options]
            child = write_config(row, settings, Path(folder))
            parsed = parser.parse_args([child, *(["--cfg-options", *words] if words else [])])
            try:
                config = load_config(parsed.config, parsed.cfg_options)
                check_config(config)
            except InputError as error:
                raise InputError(f"row {row.name!r}: {error}") from None
            channels.add(bands_of(config))
    return channels


def check_judged(settings: Settings, channels: int | None) -> None:
    """Refuse images that the classifiers will not take, before anything is trained.

    Raises:
        InputError: a folder is missing or has no labels, the classes of both sides differ, or there
            are too few images for the split or for the neighbours that vote.
    """
    per_class = settings.train_per_class
    judged = str(settings.judged) if per_class is None else None
    sides = labelled_folders(str(settings.train), judged, per_class, 0, settings.size, channels)
    count_classes(*sides)
    check_neighbours([settings.k], len(sides[0]))


def write_config(row: Row, settings: Settings, folder: Path) -> str:
    """The row's config or, where the plan or the settings say more, a child of it in ``folder``."""
    changed = dict(row.settings)
    if settings.curve:
        hooks = changed.get("custom_hooks", load_config(row.config).get("custom_hooks", []))
        changed["custom_hooks"] = [*hooks, _knn_hook(settings)]
    if not changed:
        return row.config
    lines = [f"_base_ = {str(Path(row.config).resolve())!r}"]
    lines += [f"{name} = {pformat(_plain(value))}" for name, value in changed.items()]
    child = folder / Path(row.config).name
    # The other seeds' jobs may be reading it.
    write_atomically(child, ("\n".join(lines) + "\n").encode())
    return str(child)


def _knn_hook(settings: Settings) -> dict:
    labelled = {"type": "mmsalmask.ImageFolder", "with_label": True}
    number = len(ImageFolder(str(settings.judged)))
    spread = list(range(0, number, max(1, number // CURVE_IMAGES)))
    return {
        "type": "mmsalmask.KNNHook",
        "train": {"data_root": str(settings.train), **labelled},
        "test": {"data_root": str(settings.judged), "indices": spread, **labelled},
        "interval": settings.curve,
        "size": settings.size,
        "metric": {"type": "mmsalmask.KNNMetric", "k": settings.k},
        "num_workers": settings.workers,
    }


def _plain(value: object) -> object:
    """Dicts and lists where mmengine has its own kinds."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
