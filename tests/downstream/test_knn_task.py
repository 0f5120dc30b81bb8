"""Nearest neighbours as a downstream task."""

from pathlib import Path

from drawn import draw_classes

from mmsalmask.downstream.tasks.knn import KNN


def draw_example(data_root: Path) -> None:
    draw_classes(data_root / "caltech101")


def test_every_k_has_a_row():
    by_k = {k: {"top1": 70.0, "mean_per_class": 60.5} for k in ("20", "200")}
    text = KNN.report([{"dataset": "flowers102", "by_k": by_k}])
    assert "| Flowers-102 | 20 | 70.00 | 60.50 |\n| Flowers-102 | 200 | 70.00 |" in text


def test_without_features_laid_out_there_is_no_picture(tmp_path):
    assert KNN.draw({"dataset": "flowers102"}, tmp_path / "knn.png") == []
