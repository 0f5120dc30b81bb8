"""Curves that add up to the average precision, and pictures that show what was found."""

import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from pycocotools import mask as rle

from mmsalmask.downstream.boxes import average_precisions, evaluate_detections
from mmsalmask.visualization import drawings
from mmsalmask.visualization.drawings import (
    draw_detections,
    draw_embedding,
    draw_precision_recall,
    draw_segmentations,
    precision_recall,
)

CLASSES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]


def mask(x: float, y: float, width: float, height: float) -> dict:
    pixels = np.zeros((60, 80), np.uint8, order="F")
    pixels[int(y) : int(y + height), int(x) : int(x + width)] = 1
    encoded = rle.encode(pixels)
    return {**encoded, "counts": encoded["counts"].decode()}


def thing(image: int, kind: int, *box: float, **more) -> dict:
    return {
        "image_id": image,
        "category_id": kind,
        "bbox": list(box),
        "segmentation": mask(*box),
        "area": box[2] * box[3],
        **more,
    }


def make(detections: list[dict], kind: str = "bbox"):
    objects = [thing(1, 3, 10, 10, 30, 30), thing(1, 7, 50, 5, 20, 40), thing(2, 3, 5, 5, 60, 40)]
    truth = {
        "info": {},
        "images": [{"id": i, "file_name": f"{i}.png", "width": 80, "height": 60} for i in (1, 2)],
        "categories": CLASSES,
        "annotations": [{**each, "id": i, "iscrowd": 0} for i, each in enumerate(objects, 1)],
    }
    return evaluate_detections(truth, detections, kind)


FOUND = [
    thing(1, 3, 11, 11, 30, 30, score=0.9),
    thing(1, 3, 50, 5, 20, 40, score=0.8),
    thing(2, 3, 5, 5, 60, 35, score=0.7),
    thing(2, 7, 5, 5, 60, 35, score=0.6),
]


@pytest.fixture
def photos(tmp_path):
    for i in (1, 2):
        Image.new("RGB", (80, 60), "white").save(tmp_path / f"{i}.png")
    return tmp_path


def test_the_mean_of_a_curve_is_its_average_precision():
    evaluation = make(FOUND)
    curves = precision_recall(evaluation)
    told = average_precisions(evaluation)
    means = [100 * curve.mean() for curve in curves.values()]
    np.testing.assert_allclose(means, list(told.values()))
    # At IoU 0.5: of two cats the first is found at once, the second after a mistake; no dog.
    expected = np.where(np.linspace(0, 1, 101) <= 0.5, 1.0, 2 / 3) / 2
    np.testing.assert_allclose(curves["IoU 0.50"], expected)


def test_curves_of_a_set_without_objects_are_empty(tmp_path):
    truth = {"info": {}, "images": [{"id": 1}], "categories": CLASSES, "annotations": []}
    evaluation = evaluate_detections(truth, [])
    assert [len(curve) for curve in precision_recall(evaluation).values()] == [0, 0, 0]
    draw_precision_recall({"nothing": evaluation}, tmp_path / "pr.png")
    assert Image.open(tmp_path / "pr.png").size[0] > 100


@pytest.fixture
def shown(monkeypatch) -> list[Figure]:
    """The figures that are saved."""
    figures, save = [], drawings.save_figure

    def keep(figure, picture):
        figures.append(figure)
        save(figure, picture)

    monkeypatch.setattr(drawings, "save_figure", keep)
    return figures


def texts(axis) -> list[str]:
    return [text.get_text() for text in axis.texts]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_as_many_detections_as_objects_are_drawn_below_them(photos, shown, kind):
    draw_detections(make(FOUND, kind), photos, photos / "found.png", kind)
    true, found = np.array(shown[0].axes).reshape(2, 2)
    assert [texts(axis) for axis in true] == [["cat", "dog"], ["cat"]]
    assert [texts(axis) for axis in found] == [["cat 0.90", "cat 0.80"], ["cat 0.70"]]
    assert [patch.get_bbox().bounds for patch in found[1].patches] == [(5, 5, 60, 35)]
    assert len(true[0].images) == (3 if kind == "segm" else 1)
    if kind == "segm":
        overlay = found[1].images[1].get_array()[..., 3]
        assert (overlay[5:40, 5:65] > 0).all()
        assert (overlay > 0).sum() == 35 * 60
    assert np.array(Image.open(photos / "found.png").convert("RGB")).std() > 10


def test_an_image_with_more_objects_than_can_be_told_apart_is_passed_over(photos, shown):
    crowd = [thing(1, 3, 2 * i, 2, 10, 10, id=10 + i, iscrowd=0) for i in range(7)]
    evaluation = make(FOUND)
    evaluation.cocoGt.dataset["annotations"] += crowd
    draw_detections(evaluation, photos, photos / "found.png")
    assert [texts(axis) for axis in shown[0].axes] == [["cat"], ["cat 0.70"]]


def test_where_every_image_has_many_objects_they_are_drawn(photos, shown):
    evaluation = make(FOUND)
    many = [thing(1, 3, 2 * i, 2, 20, 20, id=10 + i, iscrowd=0) for i in range(7)]
    evaluation.cocoGt.dataset["annotations"] = many
    draw_detections(evaluation, photos, photos / "found.png")
    assert len(shown[0].axes) == 2


def test_images_with_tiny_objects_come_last(photos, shown):
    evaluation = make(FOUND)
    evaluation.cocoGt.dataset["annotations"].append(thing(1, 3, 2, 2, 3, 3, id=9, iscrowd=0))
    draw_detections(evaluation, photos, photos / "found.png", count=1)
    assert [texts(axis) for axis in shown[0].axes] == [["cat"], ["cat 0.70"]]


def test_labels_lie_in_their_photo_and_not_on_each_other(photos, shown):
    boxes = [(1, 60 - i, 2 * i, 18, 20) for i in range(5)]
    found = [thing(1, 3, *box[1:], score=0.9 - box[1] / 1000) for box in boxes]
    evaluation = make(found)
    for i, box in enumerate(boxes):
        evaluation.cocoGt.dataset["annotations"].append(thing(*box[:1], 7, *box[1:], id=20 + i))
    del evaluation.cocoGt.dataset["annotations"][2]
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(drawings, "_MOST_OBJECTS", 10)
        draw_detections(evaluation, photos, photos / "found.png")
    for axis in shown[0].axes:
        photo = axis.get_window_extent()
        places = [text.get_window_extent() for text in axis.texts]
        assert len(places) >= 5
        for place, other in itertools.combinations(places, 2):
            assert not place.overlaps(other)
        for place in places:
            assert photo.x0 <= place.x0
            assert place.x1 <= photo.x1
            assert photo.y0 <= place.y0 + 1
            assert place.y1 <= photo.y1 + 1


def test_maps_have_the_colours_of_their_classes_and_a_legend_of_those_that_occur(photos, shown):
    palette = [[0, 0, 0], [255, 0, 0], [0, 255, 0]]
    truth, found = np.zeros((60, 80), np.uint8), np.zeros((60, 80), np.uint8)
    truth[:20], truth[20:30], found[:25] = 2, 255, 2
    for name, labels in (("truth", truth), ("found", found)):
        Image.fromarray(labels).save(photos / f"{name}.png")
    paths = [[photos / f"{name}.png"] for name in ("1", "truth", "found")]
    draw_segmentations(*paths, ["ground", "car", "tree"], palette, photos / "seg.png")
    _, below, last = shown[0].axes
    opaque = int(255 * drawings._OPAQUE)
    tree, void = [0, 255, 0, opaque], [255, 255, 255, opaque]
    np.testing.assert_array_equal(below.images[-1].get_array()[:20], [[tree] * 80] * 20)
    np.testing.assert_array_equal(below.images[-1].get_array()[20:30], [[void] * 80] * 10)
    assert (last.images[-1].get_array()[25:, :, 3] == 0).all(), "the background is the photo"
    (legend,) = shown[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["tree"]


def test_points_have_a_colour_per_class(tmp_path, shown):
    points = [[0, 0], [1, 1], [5, 5], [6, 6], [5, 6]]
    layout = {"points": points, "labels": [4, 4, 0, 0, 0], "classes": list("abcde")}
    draw_embedding(layout, tmp_path / "tsne.png")
    first, second = shown[0].axes[0].collections
    assert first.get_offsets().tolist() == points[:2]
    assert second.get_offsets().tolist() == points[2:]
    assert (first.get_facecolor() != second.get_facecolor()).any()
    (legend,) = shown[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["e", "a"]
