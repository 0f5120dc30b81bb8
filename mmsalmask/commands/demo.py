"""The main job in a few minutes: draw images, pretrain with masks, look, evaluate, export.

    mmsalmask demo [--work-dir work_dirs/demo] [--seed 0]

Needs no data, no labels in training and no GPU. Everything it makes lies in one folder.
"""

import argparse
import json
import os
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from mmsalmask.ablation.runs import trained_seconds
from mmsalmask.cli import Parser, print_table, report_errors, work_dir_argument
from mmsalmask.data.demo import draw_demo_set
from mmsalmask.engine.resume.log_files import logged_points
from mmsalmask.engine.resume.safe_checkpoint import run_checkpoints
from mmsalmask.jobs import Place, call
from mmsalmask.shipped import CONFIGS
from mmsalmask.visualization.saving import save_figure

CONFIG = CONFIGS / "demo" / "mocov2-salmask-mean_resnet18-w16_drawn.py"
# The net is so small that a second thread costs more than it gives.
ONE_THREAD = Place(None, os.cpu_count() or 1)


class Result(NamedTuple):
    """kNN top-1 in percent before and after pretraining, its minutes, and where its files lie.

    The minutes are those of all steps, also of calls that were interrupted.
    """

    untrained: float
    pretrained: float
    minutes: float
    work_dir: Path


def demo(work_dir: str | Path = "work_dirs/demo", seed: int = 0) -> Result:
    """Draw images, pretrain on them with masks, evaluate, and export the backbone.

    Prints what is done. Started again, it goes on with the training.

    Args:
        work_dir: the folder of everything, the images in ``data``.
        seed: of weights, views and masks.

    Raises:
        InputError: a step failed.

    Example::

        print(demo("work_dirs/first").pretrained)
    """
    data, work, console = Path(work_dir, "data"), Path(work_dir, f"seed_{seed}"), Console()
    console.rule("drawing images")
    draw_demo_set(data)
    console.rule("pretraining without labels")
    call(
        "train",
        CONFIG,
        *("--work-dir", work),
        *(["--resume"] if run_checkpoints(work) else []),
        *("--cfg-options", f"data_root={data}", f"randomness.seed={seed}"),
        place=ONE_THREAD,
    )
    minutes = trained_seconds(work) / 60
    console.rule("kNN classification of the test pictures")
    checkpoint = (work / "last_checkpoint").read_text().strip()
    before = evaluate("none", data, seed, work / "knn_untrained.json")
    after = evaluate(checkpoint, data, seed, work / "knn_pretrained.json")
    draw_curve(work, before, work / "curve.png")
    call("export", checkpoint, "-o", work / "backbone.pth", "--force", place=ONE_THREAD)
    return Result(before, after, minutes, work)


def evaluate(checkpoint: str | Path, data: Path, seed: int, result: Path) -> float:
    """kNN top-1 in percent on the test pictures, the training pictures being the neighbours."""
    call(
        "knn",
        *(CONFIG, checkpoint, "--train", data / "train", "--test", data / "test"),
        *("--size", 48, "--seed", seed, "--json", result),
        place=ONE_THREAD,
    )
    return json.loads(result.read_text())["top1"]


def draw_curve(work: Path, untrained: float, picture: Path) -> None:
    """Loss over iterations and kNN accuracy over epochs of the run in ``work``."""
    lines = logged_points(work)
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    accuracies = [(line["step"], line["knn_top1"]) for line in lines if "knn_top1" in line]
    figure = Figure(figsize=(9, 3.2), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(*zip(*losses, strict=True), color="tab:blue")
    left.set(title="contrastive loss", xlabel="iteration")
    right.plot(*zip((0, untrained), *accuracies, strict=True), "o-", color="tab:blue")
    right.set(title="kNN top-1 on test pictures, %", xlabel="epoch")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    save_figure(figure, picture)


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__.splitlines()[0])
    work_dir_argument(parser, "work_dirs/demo")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(words)
    options.work_dir = options.work_dir or Path("work_dirs/demo")
    return options


def main(words: list[str] | None = None) -> None:
    options = parse_arguments(words)
    with report_errors():
        result = demo(**vars(options))
    table = Table(title=f"after {result.minutes:.1f} minutes of pretraining")
    table.add_column("ResNet-18, 16 channels wide")
    table.add_column("kNN top-1", justify="right")
    table.add_row("untrained", f"{result.untrained:.1f} %")
    table.add_row("pretrained with saliency masking", f"{result.pretrained:.1f} %")
    print_table(table)
    work = result.work_dir
    gallery = max((work / "masks").glob("*.png"), key=lambda path: path.stat().st_mtime)
    print(f"masks: {gallery}  curve: {work / 'curve.png'}  backbone: {work / 'backbone.pth'}")
