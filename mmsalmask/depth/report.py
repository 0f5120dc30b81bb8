"""A depth checkpoint's row in Table 3 of the paper, and pictures of what it sees."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.dataset import default_collate
from mmengine.runner import Runner
from torch.utils.data import Dataset

from mmsalmask.config import load_config
from mmsalmask.depth.metric import FIGURES
from mmsalmask.depth.monodepth import Monodepth2
from mmsalmask.downstream.tables import PUBLISHED, markdown_table, read_table
from mmsalmask.engine.launch import build_runner, set_work_dir
from mmsalmask.errors import InputError
from mmsalmask.files import write_atomically

TABLE = PUBLISHED / "table3_depth.csv"
_HEADINGS = ("AbsRel", "SqRel", "RMSE", "RMSElog", "δ<1.25", "δ<1.25²", "δ<1.25³")


def depth_report(
    config: str,
    checkpoint: str,
    out: Path | None = None,
    images: int = 6,
    name: str = "this run",
    published: Path = TABLE,
    options: Mapping[str, Any] | None = None,
) -> tuple[str, Path]:
    """Test a depth checkpoint and write ``disparities.png``, ``table3.md`` and ``metrics.json``.

    Args:
        config: of ``configs/depth``.
        checkpoint: of the config's model.
        out: the folder to write into; ``None`` for ``depth_report`` in the config's ``work_dir``.
        images: to draw.
        name: of the row.
        published: the other rows, as CSV.
        options: of the config, by their dotted paths.

    Returns:
        The table as Markdown, and the folder.

    Raises:
        InputError: for a missing file, a config of something else, and less than one image.
    """
    rows = [[row["method"], *map(row.get, FIGURES)] for row in read_table(published, FIGURES)]
    if images < 1:
        raise InputError(f"--images is {images}: give at least 1")
    settings = load_config(config, options)
    if settings.get("test_dataloader") is None:
        raise InputError(f"{config} has no test_dataloader: give a config of configs/depth")
    settings.load_from = checkpoint
    set_work_dir(settings, out and str(out))
    runner = build_runner(settings, testing=True)
    if not isinstance(runner.model, Monodepth2):
        raise InputError(f"{config} has no Monodepth2 as its model")
    measured = runner.test()
    own = [f"**{name}**", *(f"**{measured[f'depth/{figure}']:.3f}**" for figure in FIGURES)]
    table = markdown_table(["Method", *_HEADINGS], [*rows, own])
    dataset = runner.test_loop.dataloader.dataset
    out = out or Path(settings.work_dir) / "depth_report"
    _, picture = cv2.imencode(".png", draw_disparities(runner.model, dataset, images))
    write_atomically(out / "disparities.png", picture.tobytes())
    write_atomically(out / "table3.md", f"{table}\n{_describe(runner, dataset)}".encode())
    write_atomically(out / "metrics.json", (json.dumps(measured, indent=2) + "\n").encode())
    return table, out


def _describe(runner: Runner, dataset: Dataset) -> str:
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
