"""Detection on COCO as a downstream task."""

import json
from pathlib import Path

import pytest
from drawn import draw_coco, setting

from mmsalmask.downstream.tasks.coco import COCO, COCODetection
from mmsalmask.errors import InputError


def draw_example(data_root: Path) -> None:
    draw_coco(data_root / "coco")


def test_annotations_that_were_cut_off_are_one_sentence(tmp_path):
    draw_example(tmp_path)
    file = tmp_path / "coco" / "annotations" / "instances_val2017.json"
    file.write_text(file.read_text()[:50])
    with pytest.raises(InputError, match="missing or damaged"):
        COCODetection(COCO, setting(tmp_path)).prepare()


def test_figures_come_unrounded_from_what_was_found(tmp_path):
    draw_example(tmp_path)
    task = COCODetection(COCO, setting(tmp_path))
    task.prepare()
    assert task.counts["test_images"] == 4
    task.found.mkdir(parents=True)
    truth = json.loads((tmp_path / "coco/annotations/instances_val2017.json").read_text())
    found = [
        {key: each[key] for key in ("image_id", "category_id", "bbox", "segmentation", "area")}
        for each in truth["annotations"]
    ][:3]
    for kind, score in (("bbox", 0.9), ("segm", 0.8)):
        file = task.found / f"found.{kind}.json"
        file.write_text(json.dumps([{**each, "score": score} for each in found]))
    figures = task.findings({})["figures"]
    # Three of four cats: precision 1 at 76 of the 101 levels of recall.
    assert figures.keys() == task.published.columns.keys()
    assert list(figures.values()) == pytest.approx([100 * 76 / 101] * 6)
