"""Detection on VOC as a downstream task."""

from pathlib import Path

import pytest
from drawn import draw_voc, setting

from mmsalmask.downstream.tasks.voc import VOC, VOCDetection
from mmsalmask.errors import InputError


def draw_example(data_root: Path) -> None:
    draw_voc(data_root / "VOCdevkit")


def test_published_figures_are_in_percent_and_by_vocs_rules(tmp_path):
    task = VOCDetection(VOC, setting(tmp_path))
    figures = {f"pascal_voc/{key}": 0.5 for key in ("mAP", "AP50", "AP75")}
    figures |= {f"coco_style/{key}": 48.0 for key in ("AP", "AP50", "AP75")}
    found = task.findings(figures)
    assert found["figures"] == {"voc_ap": 50.0, "voc_ap50": 50.0, "voc_ap75": 50.0}
    assert found["coco_style"] == {"AP": 48.0, "AP50": 48.0, "AP75": 48.0}
    config = task.fit()
    assert found["truth"] == config.test_evaluator[0].outfile_prefix + ".gt.json"


def test_images_on_both_sides_are_counted(tmp_path):
    draw_example(tmp_path)
    task = VOCDetection(VOC, setting(tmp_path))
    task.prepare()
    assert task.counts == {"train_images": 4, "test_images": 2, "shared_images": 0}


@pytest.mark.parametrize("lost", ["JPEGImages/2007_2.jpg", "Annotations/2012_1.xml"])
def test_data_that_lacks_a_file_is_one_sentence_before_anything_runs(tmp_path, lost):
    draw_example(tmp_path)
    (tmp_path / "VOCdevkit" / f"VOC{Path(lost).name[:4]}" / lost).unlink()
    with pytest.raises(InputError, match=f"some of its files are missing or damaged .*{lost}"):
        VOCDetection(VOC, setting(tmp_path)).prepare()
