"""What the demo shows of a run that was begun earlier."""

import json
from pathlib import Path

from PIL import Image

from mmsalmask.checkpoint import typed_parts
from mmsalmask.commands import demo as command
from mmsalmask.commands.demo import draw_curve
from mmsalmask.config import load_config


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


def test_the_minutes_are_those_of_all_calls(tmp_path, monkeypatch):
    for name in ("draw_demo_set", "call", "draw_curve"):
        monkeypatch.setattr(command, name, lambda *_, **__: None)
    monkeypatch.setattr(command, "evaluate", lambda *_: 50.0)
    work = tmp_path / "seed_0"
    for run, step in (("20260101_000000_000001", 60), ("20260101_000000_000002", 120)):
        write(work, run, {"step": step, "time": 1.5})
    (work / "last_checkpoint").write_text("x.pth")
    assert command.demo(tmp_path).minutes == 3


def test_the_recipe_reads_the_folders_that_the_demo_draws():
    config = load_config(str(command.CONFIG), {"data_root": "drawn"})
    roots = {part["data_root"] for part in typed_parts(config.to_dict()) if "data_root" in part}
    assert roots == {"drawn/train", "drawn/test"}
