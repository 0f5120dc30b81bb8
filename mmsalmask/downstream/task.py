"""A downstream task: its data, its recipe, its run, its pictures and its part of the report."""

import json
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, ClassVar, NamedTuple

from mmengine.config import Config
from pycocotools.cocoeval import COCOeval

from mmsalmask.config import check_config, load_config
from mmsalmask.downstream.backbone import Backbone
from mmsalmask.downstream.tables import Published
from mmsalmask.errors import InputError
from mmsalmask.jobs import Place
from mmsalmask.provenance import write_result

SCHEDULES = ("full", "small")


class Dataset(NamedTuple):
    """Images that tasks learn from and are tested on.

    Attributes:
        name: that ``--data`` and the results know it by.
        title: that the report knows it by.
        folder: where it is looked for below ``--data-root``.
    """

    name: str
    title: str
    folder: str


class Setting(NamedTuple):
    """What all tasks of a transfer share.

    Attributes:
        backbone: what every task starts from.
        data: the folder of each dataset, by its name.
        out: the folder of all results; a task writes into one below.
        schedule: ``"full"``, that of the recipes, or ``"small"``, for two CPU cores.
        train_per_class: training images of each class, of datasets that are split.
        seed: of splits and of training.
    """

    backbone: Backbone
    data: Mapping[str, Path]
    out: Path
    schedule: str = "full"
    train_per_class: int = 30
    seed: int = 0


class Picture(NamedTuple):
    """A PNG, what it is called, and what it shows; without a PNG, why there is none."""

    file: Path | None
    title: str
    caption: str


class Curves(NamedTuple):
    """Precision over recall of an evaluation; those of all tasks are drawn side by side."""

    title: str
    evaluation: COCOeval


class Task(ABC):
    """A downstream task on one of its datasets, for one backbone.

    A subclass with a ``name`` registers itself: the command line, the report and the tests know it
    from then on. Modules in ``mmsalmask/downstream/tasks`` are found; import one that is elsewhere
    before you call :func:`mmsalmask.commands.transfer.transfer`. ``docs/add_a_task.md`` adds one.

    Class attributes:
        name: that ``--tasks`` knows it by.
        recipes: its datasets, and the config that each is trained with or whose encoder it takes:
            a path below ``configs``, or an absolute one, with the fields of
            :meth:`Backbone.recipe`.
        heading: of its part of the report. Tasks with the same one share it.
        position: tasks with a lower one come first.
        published: the columns of a published table that its figures belong to, if any.

    Args:
        dataset: one of the recipes'.
        setting: what all tasks share.
    """

    name: ClassVar[str]
    recipes: ClassVar[Mapping[Dataset, str]]
    heading: ClassVar[str]
    position: ClassVar[int] = 100
    published: ClassVar[Published | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" in vars(cls):
            known = _REGISTERED.setdefault(cls.name, cls)
            if known.__module__ != cls.__module__:
                raise TypeError(f"{known.__module__} has a task {cls.name!r}: give another name")
            _REGISTERED[cls.name] = cls

    def __init__(self, dataset: Dataset, setting: Setting) -> None:
        self.dataset = dataset
        self.setting = setting
        self.root = Path(setting.data[dataset.name])
        self.recipe = setting.backbone.recipe(self.recipes[dataset])
        self.folder = setting.out / self.job

    @property
    def job(self) -> str:
        """What this task on this dataset is called."""
        one = self.name == self.dataset.name
        return self.name if one else f"{self.name}-{self.dataset.name}"

    @property
    def small(self) -> bool:
        """Whether the schedule is the small one."""
        return self.setting.schedule == "small"

    # ------------------------------------------------------------------------ before anything runs

    def prepare(self) -> None:
        """Check data and config.

        Raises:
            InputError: the data is not there, or not as expected.
        """
        if not self.root.is_dir():
            raise InputError(f"there is no folder {self.root}")
        self.config = self.fit()
        self.counts = self.check()

    @abstractmethod
    def check(self) -> dict[str, int]:
        """Check the data: its ``train_images``, ``test_images`` and maybe ``shared_images``.

        Raises:
            InputError: it is not as expected; one sentence that says what to do.
        """

    def fit(self) -> Config:
        """The recipe for this backbone, its data and one process.

        Raises:
            InputError: the recipe or an option of it is not there.
        """
        backbone = self.setting.backbone
        options = {
            **self.options(),
            "randomness.seed": self.setting.seed,
            "model.backbone.depth": backbone.depth,
            "model.backbone.init_cfg.checkpoint": str(backbone.file),
        }
        config = load_config(str(self.recipe), options)
        named = re.search(r"_(\d+)xb\d+-", self.recipe.stem)
        processes, loader = int(named[1]) if named else 1, config.train_dataloader
        loader.batch_size *= processes  # one process does the work of all
        loader.num_workers = min(loader.num_workers * processes, os.cpu_count() or 1)
        expansion = 1 if backbone.depth < 50 else 4
        merge(config, self.widths(config, 256 * expansion, 512 * expansion))
        self.adjust(config)
        check_config(config)
        return config

    def options(self) -> dict[str, Any]:
        """Options of the recipe that say where its data lies and how it is split."""
        return {"data_root": str(self.root)}

    def widths(self, config: Config, res4: int, res5: int) -> dict[str, Any]:
        """Options of the model, below ``model``, that follow from the channels of res4 and res5."""
        return {}

    def adjust(self, config: Config) -> None:  # noqa: B027  most tasks need nothing more
        """Change more of a config, in place."""

    def identity(self) -> dict[str, Any]:
        """What the result depends on: a folder with another one is refused."""
        source = self.setting.backbone.facts["source_sha256"]
        return {"source_sha256": source, "data": str(self.root), **self._recipe()}

    def _recipe(self) -> dict[str, Any]:
        schedule, seed = self.setting.schedule, self.setting.seed
        return {"schedule": schedule, "recipe": self.recipe.name, "seed": seed}

    # -------------------------------------------------------------------------------------- the run

    def finish(self, origin: Mapping[str, Any], place: Place) -> dict[str, Any]:
        """Run at a place and keep the result, or read what an earlier call finished.

        Args:
            origin: of the result, as :func:`mmsalmask.provenance.provenance` tells it.
        """
        file, start = self.folder / "result.json", time.perf_counter()
        if not file.exists():
            facts = {"task": self.name, "dataset": self.dataset.name, **self._recipe()}
            found = {"resumed": False, **self.run(place)}
            seconds = round(time.perf_counter() - start)
            write_result(file, {**origin, **facts, **self.counts, **found, "seconds": seconds})
        return json.loads(file.read_text())

    @abstractmethod
    def run(self, place: Place) -> dict[str, Any]:
        """Do the task.

        Returns:
            JSON values: ``figures`` by the names of the published columns or others, and what
            pictures are drawn from; ``resumed`` if it went on with an earlier call's work.
        """

    # --------------------------------------------------------------------- from results to a report

    @classmethod
    def report(cls, results: Sequence[Mapping[str, Any]]) -> str:
        """Markdown of the task's results, below its heading and the published table."""
        return ""

    @classmethod
    def draw(cls, result: Mapping[str, Any], file: Path) -> list[Picture | Curves]:
        """Draw what a result has files for; a PNG goes into ``file``."""
        return []

    @classmethod
    def title(cls, result: Mapping[str, Any]) -> str:
        """The title of a result's dataset."""
        return next(each.title for each in cls.recipes if each.name == result["dataset"])


_REGISTERED: dict[str, type[Task]] = {}


def registered() -> dict[str, type[Task]]:
    """All tasks that there are, by their names, in the order of the report."""
    package = import_module("mmsalmask.downstream.tasks")
    for module in iter_modules(package.__path__, f"{package.__name__}."):
        import_module(module.name)
    return dict(sorted(_REGISTERED.items(), key=lambda item: item[1].position))


def known_datasets() -> dict[str, Dataset]:
    """The datasets of all tasks, by their names."""
    return {each.name: each for task in registered().values() for each in task.recipes}


def merge(config: Config, options: Mapping[str, Any]) -> None:
    """Set options of a config's model, in place."""
    config.merge_from_dict({f"model.{name}": value for name, value in options.items()})
