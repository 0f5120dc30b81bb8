"""Segmentation as a downstream task."""

from pathlib import Path

import pytest
from drawn import draw_voc, setting

from mmsalmask.downstream.tasks.segmentation import Segmentation
from mmsalmask.downstream.tasks.voc import VOC
from mmsalmask.errors import InputError


def draw_example(data_root: Path) -> None:
    draw_voc(data_root / "VOCdevkit")


def test_maps_are_shown_beside_their_truth(tmp_path):
    draw_example(tmp_path)
    task = Segmentation(VOC, setting(tmp_path))
    task.prepare()
    found = task.findings({"mIoU": 61.5, "mAcc": 70.25, "aAcc": 90.0, "other": 1.0})
    assert found["figures"] == {"mIoU": 61.5, "mAcc": 70.25, "aAcc": 90.0}
    shown = found["shown"]
    names = [Path(photo).stem for photo in shown["photos"]]
    assert names == ["2012_1", "2012_2"]
    assert [Path(each).stem for each in shown["truth"]] == names
    assert shown["found"] == [f"{task.config.test_evaluator.output_dir}/{n}.png" for n in names]
    assert len(shown["classes"]) == len(shown["palette"]) == 21


def test_a_map_of_classes_that_is_missing_is_one_sentence(tmp_path):
    draw_example(tmp_path)
    (tmp_path / "VOCdevkit/VOC2012/SegmentationClassAug/2012_2.png").unlink()
    with pytest.raises(InputError, match=r"files are missing or damaged .*Aug/2012_2\.png"):
        Segmentation(VOC, setting(tmp_path)).prepare()
