"""Nearest class mean as a downstream task."""

from pathlib import Path

from drawn import draw_classes, setting

from mmsalmask.downstream.tasks.means import FLOWERS, NearestMean


def draw_example(data_root: Path) -> None:
    """Eight images of each of three classes."""
    draw_classes(data_root / "flowers")


def test_the_folder_is_split_by_class(tmp_path):
    draw_example(tmp_path)
    task = NearestMean(FLOWERS, setting(tmp_path, train_per_class=5))
    task.prepare()
    assert task.counts == {"train_images": 15, "test_images": 9}


def test_a_row_of_the_report():
    figures = {"top1": 81.234, "mean_per_class": 80.0}
    row = NearestMean.report([{"dataset": "flowers", "figures": figures}])
    assert "| My flowers | 81.23 | 80.00 |" in row
