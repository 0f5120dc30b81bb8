"""Curves without doubles: a resumed run cuts the logs back to where its checkpoint was written."""

import json
import os
from pathlib import Path
from typing import Any

from mmengine.visualization import Visualizer

_PATTERNS = ("*/vis_data/*tfevents*", "*/vis_data/*.json")


def logged_points(work_dir: str | Path) -> list[dict[str, Any]]:
    """What was logged in a work directory, a dict of numbers for each line, over all its runs.

    What a later run has trained anew, one that was not resumed, is left out of the earlier ones,
    and so is a line that a killed or running process has not written to its end.
    """
    points: list[dict[str, Any]] = []
    for file in sorted(Path(work_dir).glob("*/vis_data/scalars.json")):
        lines = file.read_text(encoding="utf-8").splitlines()
        later = [json.loads(line) for line in lines if line.endswith("}")]
        start = next((point for point in later if "iter" in point), None)
        points = [point for point in points if start is None or _before(point, start)] + later
    return points


def _before(point: dict[str, Any], start: dict[str, Any]) -> bool:
    """Whether a line lies before a line of training; evaluations may count epochs."""
    unit = "epoch" if "iter" not in point and "epoch" in start else "step"
    return point["step"] < start[unit]


def log_sizes(work_dir: str | Path, visualizer: Visualizer) -> dict[str, int]:
    """How many bytes each file of curves has now, all that was logged being in it.

    Covers TensorBoard's event files and the JSON lines of all runs in the work directory; paths are
    relative to it.
    """
    for backend in visualizer._vis_backends.values():
        flush = getattr(getattr(backend, "_tensorboard", None), "flush", None)
        if flush is not None:
            flush()
    return {str(file.relative_to(work_dir)): file.stat().st_size for file in _files(Path(work_dir))}


def cut_logs(work_dir: str | Path, state: dict[str, Any], current: str | Path) -> int:
    """Cut the files of curves to a checkpoint's sizes; files that it does not name are removed.

    Both formats are only ever appended to, so that a cut file is a valid one. What is cut away
    belongs to iterations that are trained, and logged, once more. A checkpoint from another work
    directory says nothing of the curves in this one, and they stay.

    Args:
        state: ``logs``, as :func:`log_sizes` returned them, and ``log_folder``, the folder of the
            run that wrote them, which older checkpoints do not have.
        current: the log directory of this run, which is left alone.

    Returns:
        Number of bytes cut away.
    """
    sizes, cut = state["logs"], 0
    runs = {Path(name).parts[0] for name in sizes} | {state.get("log_folder")} - {None}
    if not any((Path(work_dir) / run).is_dir() for run in runs):
        return 0
    for file in _files(Path(work_dir)):
        size = sizes.get(str(file.relative_to(work_dir)), 0)
        surplus = file.stat().st_size - size
        if surplus <= 0 or Path(current) in file.parents:
            continue
        cut += surplus
        os.truncate(file, size)
        if size == 0:
            file.unlink()
    return cut


def _files(work_dir: Path) -> list[Path]:
    return sorted({file for pattern in _PATTERNS for file in work_dir.glob(pattern)})
