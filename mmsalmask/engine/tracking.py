"""Curves in Weights & Biases or MLflow, beside TensorBoard's.

A work directory is one run of its tracker, whose id it keeps in ``tracker.json``: a training that
was killed and resumed goes on in the same curves. What it had logged after its last checkpoint is
trained and logged once more, with the same values.
"""

import importlib.util
import json
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Number
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.visualization import BaseVisBackend
from mmengine.visualization.vis_backend import force_init_env

from mmsalmask.engine.resume.log_files import logged_points
from mmsalmask.errors import InputError
from mmsalmask.files import write_atomically
from mmsalmask.registry import VISBACKENDS

PROJECT = "mmsalmask"


def use_tracker(config: Config, tracker: str) -> None:
    """Let a config with a ``work_dir`` also log to a tracker, ``"wandb"`` or ``"mlflow"``.

    The tracker's own environment variables say where to: ``WANDB_MODE=offline``,
    ``WANDB_PROJECT``, ``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME`` and the like.

    Raises:
        InputError: for another tracker, or one that is not installed.
    """
    backends = {"wandb": "mmsalmask.WandbBackend", "mlflow": "mmsalmask.MLflowBackend"}
    if tracker not in backends:
        raise InputError(f"tracker must be 'wandb' or 'mlflow', got {tracker!r}")
    if importlib.util.find_spec(tracker) is None:
        raise InputError(
            f"tracker {tracker!r} is not installed: pip install 'mmsalmask[{tracker}]'"
        )
    wanted = ConfigDict(type=backends[tracker], work_dir=config.work_dir)
    config.visualizer = config.get("visualizer") or ConfigDict(type="Visualizer")
    others = config.visualizer.get("vis_backends") or [ConfigDict(type="LocalVisBackend")]
    others = [one for one in others if one.type != wanted.type]
    config.visualizer.vis_backends = [*others, wanted]


class Tracker(BaseVisBackend):
    """What both trackers share. A run that cannot be started is an error, a lost point is not.

    Args:
        save_dir: where files of its own may go.
        work_dir: of the training; keeps the run's id, and names the run.

    Raises:
        InputError: when the first curve is logged, the run cannot be started or gone on with.
    """

    name: str

    def __init__(self, save_dir: str, work_dir: str) -> None:
        super().__init__(save_dir)
        self.work_dir = Path(work_dir)

    def _init_env(self) -> None:
        file = self.work_dir / "tracker.json"
        known = json.loads(file.read_text()) if file.is_file() else {}
        try:
            self._module = importlib.import_module(self.name)
            run = self._start(self._module, known.get(self.name))
        except Exception as error:  # the trackers have errors of many kinds
            reason = " ".join(str(error).split())
            raise InputError(
                f"{self.name} cannot start a run ({reason}): see its manual"
            ) from error
        write_atomically(file, json.dumps({**known, self.name: run}).encode())

    def _start(self, module: ModuleType, run: str | None) -> str:
        """Start a run, or go on with this one; return its id."""
        raise NotImplementedError

    @property
    @force_init_env
    def experiment(self) -> ModuleType:
        return self._module

    def add_scalar(self, name: str, value: Any, step: int = 0, **_: Any) -> None:
        self.add_scalars({name: value}, step)

    @force_init_env
    def add_scalars(
        self, scalar_dict: dict, step: int = 0, file_path: str | None = None, **_: Any
    ) -> None:
        numbers = {
            key: float(value)
            for key, value in scalar_dict.items()
            if isinstance(value, Number) or getattr(value, "size", None) == 1
        }
        with self._tolerant():
            self._log(numbers, step)

    def _log(self, numbers: dict[str, float], step: int) -> None:
        raise NotImplementedError

    @contextmanager
    def _tolerant(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a week of training does not end with a server's bad hour
            reason = " ".join(str(error).split())[:200]
            print_log(f"{self.name} lost a point: {reason}", "current", logging.WARNING)


# W&B writes its file in blocks of 32 KB, so a kill loses up to so many points.
_UNWRITTEN = 300


@VISBACKENDS.register_module()
class WandbBackend(Tracker):
    """A run of Weights & Biases. Its x-axis is the iteration, or the epoch of what epochs log.

    A resumed run logs its last points once more, from the training's own files.
    """

    name = "wandb"

    def _start(self, module: ModuleType, run: str | None) -> str:
        self._run = module.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run or uuid.uuid4().hex[:8],
            name=self.work_dir.name,
            dir=str(self.work_dir),
            resume="allow",
        )
        self._run.define_metric("*", step_metric="step")
        for point in logged_points(self.work_dir)[-_UNWRITTEN:] if run else []:
            self._run.log(point)
        return self._run.id

    @force_init_env
    def add_config(self, config: Config, **_: Any) -> None:
        with self._tolerant():
            self._run.config.update(config.to_dict(), allow_val_change=True)

    def _log(self, numbers: dict[str, float], step: int) -> None:
        self._run.log({**numbers, "step": step})

    @force_init_env
    def add_image(self, name: str, image: np.ndarray, step: int = 0, **_: Any) -> None:
        with self._tolerant():
            self._run.log({name: self._module.Image(image), "step": step})

    def close(self) -> None:
        if self._env_initialized:
            with self._tolerant():
                self._run.finish()


@VISBACKENDS.register_module()
class MLflowBackend(Tracker):
    """A run of MLflow, its config an artifact. A percent sign, which no name may have, is "pct"."""

    name = "mlflow"

    def _start(self, module: ModuleType, run: str | None) -> str:
        if run is None:
            module.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        started = module.start_run(run_id=run, run_name=None if run else self.work_dir.name)
        return started.info.run_id

    @force_init_env
    def add_config(self, config: Config, **_: Any) -> None:
        with self._tolerant():
            self._module.log_text(config.pretty_text, "config.py")

    def _log(self, numbers: dict[str, float], step: int) -> None:
        named = {key.replace("%", "_pct"): value for key, value in numbers.items()}
        self._module.log_metrics(named, step=step)

    @force_init_env
    def add_image(self, name: str, image: np.ndarray, step: int = 0, **_: Any) -> None:
        with self._tolerant():
            self._module.log_image(image, key=name.replace("/", "_"), step=step)

    def close(self) -> None:
        if self._env_initialized:
            with self._tolerant():
                self._module.end_run()
