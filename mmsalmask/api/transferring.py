"""All downstream tasks that the data allows, in one report."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmsalmask.api.run import Run
from mmsalmask.errors import InputError
from mmsalmask.jobs import show


def transfer(
    checkpoint: str | os.PathLike | Run,
    out: str | os.PathLike,
    data_root: str | os.PathLike = "data",
    data: Mapping[str, str | os.PathLike] | None = None,
    tasks: Sequence[str] | None = None,
    schedule: str = "full",
    train_per_class: int = 30,
    seed: int = 0,
) -> Path:
    """Take a backbone through linear evaluation, kNN, detection and segmentation.

    The same as ``mmsalmask transfer``, whose help says what the datasets are called and where they
    are looked for. A call that was interrupted goes on when it is made again.

    Args:
        checkpoint: a run, its checkpoint, or an exported backbone.
        out: the folder of the report and of all that is trained for it.
        data_root: where the datasets lie.
        data: where some lie elsewhere, e.g. ``{"caltech101": "photos/caltech"}``.
        tasks: of ``linear``, ``knn``, ``voc``, ``coco`` and ``seg``; ``None`` for all with data.
        schedule: ``"full"``, that of the recipes, or ``"small"``, for two CPU cores.
        train_per_class: images of each class of Caltech-101 to learn from.
        seed: of the split, and of all that is trained.

    Returns:
        ``report.html`` in ``out``.

    Raises:
        InputError: a task lacks its data, or failed; the sentence says why.
    """
    file = checkpoint.checkpoint if isinstance(checkpoint, Run) else checkpoint
    command = [sys.executable, "-m", "mmsalmask", "transfer", os.fspath(file)]
    command += ["--work-dir", os.fspath(out), "--data-root", os.fspath(data_root)]
    command += ["--schedule", schedule]
    command += ["--train-per-class", str(train_per_class), "--seed", str(seed)]
    if data:
        command += ["--data", *(f"{name}={os.fspath(folder)}" for name, folder in data.items())]
    if tasks is not None:
        command += ["--tasks", ",".join(tasks)]
    status, last = show(command)
    if status:
        raise InputError(last.removeprefix("error: "))
    return Path(out) / "report.html"
