"""What the demo shows of a run that was begun earlier."""

import json
from pathlib import Path

from PIL import Image

from mmsalmask.commands.demo import draw_curve


def write(work: Path, run: str, *lines: dict) -> None:
    log = work / run / "vis_data" / "scalars.json"
    log.parent.mkdir(parents=True)
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_curve_goes_on_where_the_run_was_resumed(tmp_path):
    loss = [{"step": step, "loss": 5 / step} for step in (1, 2, 3, 4)]
    accuracy = {"step": 1, "knn_top1": 40.0}
    write(tmp_path / "whole", "20260101_000000_000001", *loss, accuracy)
    write(tmp_path / "resumed", "20260101_000000_000001", *loss[:2])
    write(tmp_path / "resumed", "20260101_000000_000002", *loss[2:])
    write(tmp_path / "resumed", "20260101_000000_000003", accuracy)
    pictures = []
    for run in ("whole", "resumed"):
        draw_curve(tmp_path / run, 20.0, tmp_path / f"{run}.png")
        pictures.append(Image.open(tmp_path / f"{run}.png").tobytes())
    assert pictures[0] == pictures[1]
