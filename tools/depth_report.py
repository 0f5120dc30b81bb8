"""Test a depth checkpoint, draw disparity maps beside images, and put its row into Table 3.

Written to --work-dir: disparities.png, table3.md (the paper's Table 3 with this run's row below)
and metrics.json. The row is comparable with the others only for KITTI's 697 Eigen test images and
an encoder that was frozen; the file says what was tested.
"""

import argparse
import csv
import json
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.dataset import default_collate
from mmengine.runner import Runner
from torch.utils.data import Dataset

from mmsalmask.cli import config_arguments, report_errors, work_dir_argument
from mmsalmask.config import load_config
from mmsalmask.depth import Monodepth2
from mmsalmask.depth.metric import FIGURES
from mmsalmask.downstream.report import PUBLISHED
from mmsalmask.engine.launch import build_runner, set_work_dir
from mmsalmask.errors import InputError
from mmsalmask.files import write_atomically

TABLE = PUBLISHED / "table3_depth.csv"
_HEADINGS = ("AbsRel", "SqRel", "RMSE", "RMSElog", "δ<1.25", "δ<1.25²", "δ<1.25³")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    config_arguments(parser)
    parser.add_argument("checkpoint", help="a checkpoint of the config's model")
    work_dir_argument(parser, "work_dirs/<config>/depth_report")
    parser.add_argument("--images", type=int, default=6, help="to draw (%(default)s)")
    parser.add_argument("--name", default="this run", help="of the row (%(default)s)")
    parser.add_argument(
        "--published", type=Path, default=TABLE, help="the other rows, as CSV (%(default)s)"
    )
    return parser.parse_args(arguments)


def read_table(path: Path) -> list[dict[str, str]]:
    """The published rows.

    Raises:
        InputError: if the file is missing or has other columns.
    """
    if not path.is_file():
        raise InputError(f"there is no table {path}: give the published rows with --published")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or {"method", *FIGURES} - set(rows[0]):
        raise InputError(f"{path} needs the columns method, {', '.join(FIGURES)}")
    return rows


def render_table(published: list[dict[str, str]], name: str, figures: dict[str, float]) -> str:
    """Markdown table of the published rows and this run's, in bold."""
    lines = [f"| Method | {' | '.join(_HEADINGS)} |", "|---|" + "---:|" * len(_HEADINGS)]
    lines += [f"| {r['method']} | {' | '.join(r[f] for f in FIGURES)} |" for r in published]
    own = " | ".join(f"**{figures[figure]:.3f}**" for figure in FIGURES)
    return "\n".join([*lines, f"| **{name}** | {own} |"]) + "\n"


def describe(runner: Runner, dataset: Dataset) -> str:
    """What the last row was measured on, in a sentence."""
    frozen = "frozen" if runner.model.freeze_encoder else "trained along"
    return (
        "Rows above: Chin et al., WACV 2024, Table 3 (KITTI, Eigen split, frozen encoders). Last "
        f"row: {len(dataset)} images of {dataset.split} {dataset.subset} in {dataset.data_root}, "
        f"ResNet-{runner.model.encoder.depth} encoder {frozen}, {runner.cfg.load_from}.\n"
    )


@torch.no_grad()
def draw_disparities(model: Monodepth2, dataset: Dataset, number: int) -> np.ndarray:
    """(H, W, 3) uint8 BGR picture: images on the left, disparities (bright is near) on the right.

    Colours run from each map's 5th to its 95th percentile.
    """
    places = np.linspace(0, len(dataset) - 1, min(number, len(dataset))).round().astype(int)
    items = [dataset[place] for place in places.tolist()]
    samples = model.eval().test_step(default_collate(items))
    rows = []
    for item, sample in zip(items, samples, strict=True):
        image = cv2.imread(sample.img_path)
        disparity = sample.pred_inverse_depth.cpu().numpy()
        low, high = np.percentile(disparity, (5, 95))
        grey = np.clip((disparity - low) / max(high - low, 1e-6), 0, 1) * 255
        colours = cv2.applyColorMap(grey.astype(np.uint8), cv2.COLORMAP_MAGMA)
        height, width = item["inputs"]["img"].shape[-2:]
        rows.append(np.hstack([cv2.resize(image, (width, height)), colours]))
    return np.vstack(rows)


def report(options: argparse.Namespace) -> str:
    published = read_table(options.published)
    if options.images < 1:
        raise InputError(f"--images is {options.images}: give at least 1")
    config = load_config(options.config, options.cfg_options)
    if config.get("test_dataloader") is None:
        raise InputError(f"{options.config} has no test_dataloader: give a config of configs/depth")
    config.load_from = options.checkpoint
    set_work_dir(config, options.work_dir and str(options.work_dir))
    runner = build_runner(config)
    if not isinstance(runner.model, Monodepth2):
        raise InputError(f"{options.config} has no Monodepth2 as its model")
    measured = runner.test()
    figures = {name: measured[f"depth/{name}"] for name in FIGURES}
    dataset = runner.test_loop.dataloader.dataset
    table = render_table(published, options.name, figures)
    out = options.work_dir or Path(config.work_dir) / "depth_report"
    _, picture = cv2.imencode(".png", draw_disparities(runner.model, dataset, options.images))
    write_atomically(out / "disparities.png", picture.tobytes())
    write_atomically(out / "table3.md", f"{table}\n{describe(runner, dataset)}".encode())
    write_atomically(out / "metrics.json", (json.dumps(measured, indent=2) + "\n").encode())
    return f"{table}\n{out}/disparities.png, table3.md, metrics.json"


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    with report_errors():
        print(report(options))


if __name__ == "__main__":
    main()
