"""Tasks that train a recipe and test it, and what a small machine bears of them."""

import contextlib
import io
import json
from abc import abstractmethod
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from torch.utils.data import Dataset

from mmsalmask import jobs
from mmsalmask.data.nesting import base_datasets
from mmsalmask.data.storage import file_identity
from mmsalmask.downstream.task import Task
from mmsalmask.engine.paths import check_data_paths
from mmsalmask.engine.resume.safe_checkpoint import run_checkpoints
from mmsalmask.errors import InputError

SMALL_SIDE = 160
SMALL_BATCH = 4
SMALL_ITERATIONS = 200
SMALL_TEST_IMAGES = 200


class TrainedTask(Task):
    """A task whose recipe is trained by ``tools/train.py`` and tested by ``tools/test.py``."""

    @property
    def found(self) -> Path:
        """The folder of what the test found in each image."""
        return self.folder / "found"

    def check(self) -> dict[str, int]:
        return count_images(self.config)

    def adjust(self, config: Config) -> None:
        if self.small:
            self.shrink(config)
            for loader in (config.train_dataloader, config.val_dataloader):
                loader.num_workers, loader.persistent_workers = 1, True
            config.test_dataloader = config.val_dataloader
            config.default_hooks.logger.interval = 10
        self.keep(config)

    @abstractmethod
    def shrink(self, config: Config) -> None:
        """Shrink images, heads and schedule to what two CPU cores do in minutes, in place.

        What comes out shows that everything works and compares with nothing.
        """

    @abstractmethod
    def keep(self, config: Config) -> None:
        """Let the metrics of a config write what they find into the folder ``found``."""

    def run(self, place: jobs.Place) -> dict[str, Any]:
        figures, resumed = train_and_test(self.config, self.folder, place)
        return {**self.findings(figures), "resumed": resumed}

    @abstractmethod
    def findings(self, figures: dict[str, float]) -> dict[str, Any]:
        """The result of a test, of which these are the figures: see :meth:`Task.run`."""


def train_and_test(
    config: Config, folder: Path, place: jobs.Place
) -> tuple[dict[str, float], bool]:
    """Train, or go on with it, then test.

    Returns:
        The figures of the test, and whether an earlier call had trained a part.
    """
    recipe, trained = folder / "config.py", folder / "train" / "last_checkpoint"
    config.dump(recipe)
    jobs.wait_for(folder / "train.log")  # a kill of this tool alone leaves training going
    resumed = bool(run_checkpoints(folder / "train"))
    if not (folder / "trained").exists():
        words = [str(recipe), "--verbose", f"--work-dir={folder / 'train'}"]
        words += ["--resume"] if resumed else []
        jobs.call("train", *words, log=folder / "train.log", place=place)
        (folder / "trained").touch()
    words = [str(recipe), trained.read_text().strip(), f"--work-dir={folder / 'test'}"]
    jobs.call("test", *words, log=folder / "test.log", place=place)
    newest = max((folder / "test").glob("*/*.json"), key=lambda file: file.stat().st_mtime)
    return json.loads(newest.read_text()), resumed


def few_steps(config: Config) -> None:
    """A small schedule of a recipe that counts iterations, in place."""
    config.optim_wrapper.optimizer.lr *= SMALL_BATCH / config.train_dataloader.batch_size
    config.train_dataloader.batch_size = SMALL_BATCH
    config.train_cfg.update(
        max_iters=SMALL_ITERATIONS, val_interval=SMALL_ITERATIONS, val_begin=SMALL_ITERATIONS + 1
    )
    config.default_hooks.checkpoint.interval = max(1, SMALL_ITERATIONS // 4)


def small_test(config: Config, scale: tuple[int, int]) -> None:
    """A test of the first images, resized to a small scale, in place."""
    dataset = config.val_dataloader.dataset
    dataset.indices = SMALL_TEST_IMAGES
    for transform in dataset.pipeline:
        if transform.type == "Resize":
            transform.scale = scale


def count_images(config: Config) -> dict[str, int]:
    """``train_images``, ``test_images`` and ``shared_images``, those that are among both.

    Raises:
        InputError: the data is not there, or an image or an annotation of it is missing or damaged.
    """
    check_data_paths(config, ("train_dataloader", "test_dataloader"))
    try:
        train, test = ({*image_paths(config, loader)} for loader in ("train", "test"))
    except InputError:
        raise
    except (OSError, ValueError, LookupError, SyntaxError, AssertionError) as error:
        raise InputError(
            f"some of its files are missing or damaged ({type(error).__name__}: {error}); "
            "`mmsalmask data` tells how they are fetched"
        ) from error
    shared = len(train & test)
    return {"train_images": len(train), "test_images": len(test), "shared_images": shared}


def image_paths(config: Config, loader: str) -> list[str]:
    """Paths of the images that the ``train`` or ``test`` loader of a config reads, in order.

    Raises:
        OSError: one of them, or its map of classes, is not there.
    """
    parts = base_datasets(build_dataset(config, loader))
    infos = [part.get_data_info(i) for part in parts for i in range(len(part))]
    for info in infos:
        for path in filter(None, map(info.get, ("img_path", "seg_map_path"))):
            file_identity(path)
    return [info["img_path"] for info in infos]


def build_dataset(config: Config, loader: str) -> Dataset:
    """The dataset of the ``train`` or ``test`` loader of a config."""
    quiet = contextlib.redirect_stdout(io.StringIO())  # pycocotools reports its own progress
    with quiet, DefaultScope.overwrite_default_scope(config.default_scope):
        return DATASETS.build(config[f"{loader}_dataloader"].dataset)
