"""A pretraining on disk: its checkpoint, its curves, its masks."""

import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from mmsalmask.api.encoder import Encoder
from mmsalmask.api.models import get_model
from mmsalmask.engine.resume.log_files import logged_points
from mmsalmask.engine.resume.safe_checkpoint import run_checkpoints, why_damaged
from mmsalmask.errors import InputError

# What a log line counts by; all else is a figure.
_COUNTS = ("step", "iter", "epoch")
_COSTS = ("time", "data_time", "memory")


class Run:
    """What a pretraining has left in its folder, while it trains or later.

    Args:
        folder: the ``out`` of :func:`mmsalmask.pretrain`, or any work directory of
            ``mmsalmask train``.

    Raises:
        InputError: there is no such folder.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise InputError(
                f"there is no folder {self.folder}, so no run: give the folder of a run"
            )

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint that is not damaged.

        Raises:
            InputError: there is none.
        """
        for path in run_checkpoints(self.folder):
            if why_damaged(path) is None:
                return path
        raise InputError(
            f"{self.folder} holds no whole checkpoint: let the run reach an epoch's end"
        )

    @property
    def history(self) -> dict[str, np.ndarray]:
        """Columns of numbers by name, float64, a row for each line of the log, in order.

        ``step``, ``epoch`` and ``iter`` count; ``loss``, ``lr``, ``images_per_second``, the shares
        that are masked and, where the recipe evaluates, ``knn_top1`` are figures. A row that lacks
        a column has NaN there. A run that was resumed, or started anew, has one curve.
        """
        lines = logged_points(self.folder)
        names = dict.fromkeys([*_COUNTS, *(name for line in lines for name in line)])
        return {
            name: np.array([_number(line.get(name)) for line in lines], dtype=np.float64)
            for name in names
        }

    @property
    def mask_pictures(self) -> list[Path]:
        """The pictures of masks that the run has drawn, the oldest first."""
        pictures = (self.folder / "masks").glob("*.png")
        return sorted(pictures, key=lambda picture: picture.stat().st_mtime_ns)

    def backbone(self) -> Encoder:
        """The encoder of :attr:`checkpoint`, in eval mode, with its preprocessing."""
        return get_model(self.checkpoint)

    def masks(self) -> Figure:
        """The newest picture of views, saliency and masks that the run has drawn.

        Raises:
            InputError: there is none, as of a method without masks.
        """
        pictures = self.mask_pictures
        if not pictures:
            raise InputError(
                f"{self.folder} has no pictures of masks: they are drawn every ten epochs, by "
                "methods that mask; mmsalmask.show_masks draws them without training"
            )
        return picture_figure(Image.open(pictures[-1]))

    def plot(self) -> Figure:
        """The curves of :attr:`history`: the loss large, all other figures below it.

        Raises:
            InputError: nothing was logged yet.
        """
        history = self.history
        shown = [name for name in history if name not in _COUNTS + _COSTS and "loss" not in name]
        if not len(history["step"]):
            raise InputError(f"{self.folder} has no curves yet: wait for the first line of the log")
        rows = 1 + -(-len(shown) // 3)
        figure = Figure(figsize=(9, 2.6 + 1.7 * (rows - 1)), layout="constrained")
        grid = figure.add_gridspec(rows, 3, height_ratios=[1.5, *[1] * (rows - 1)])
        axis = figure.add_subplot(grid[0, :])
        for name in (name for name in history if "loss" in name):
            _draw(axis, history, name)
        axis.set(ylabel="loss", xlabel="iteration")
        for place, name in enumerate(shown):
            axis = figure.add_subplot(grid[1 + place // 3, place % 3])
            _draw(axis, history, name)
            axis.set_title(name.replace("_", " ").replace("%", ", %"), fontsize=9)
            if axis.get_ylim()[0] < 0 <= np.nanmin(history[name]):
                axis.set_ylim(bottom=0)  # of what is never negative
        return figure


def _draw(axis: Axes, history: dict[str, np.ndarray], name: str) -> None:
    known = np.isfinite(history[name])
    axis.plot(history["step"][known], history[name][known], marker="." if known.sum() < 30 else "")
    axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    if np.isfinite(history["epoch"]).any() and not np.isfinite(history["iter"][known]).any():
        axis.set_xlabel("epoch", fontsize=8)  # of an evaluation, among curves over iterations
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def picture_figure(picture: Image.Image, dpi: int = 140) -> Figure:
    """A picture as a figure of its own size, without axes."""
    width, height = picture.size
    figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.imshow(picture)
    axis.set_axis_off()
    return figure
