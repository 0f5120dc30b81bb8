"""COCO's AP of VOC's boxes, against pycocotools fed from the XML files by another way."""

import contextlib
import io
import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch

import mmsalmask  # noqa: F401  serves mmcv's operators where they are not compiled

pytest.importorskip("mmdet")
from mmdet.datasets import VOCDataset
from mmdet.registry import DATASETS
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmsalmask.config import load_config
from mmsalmask.downstream.boxes import CocoStyleAP, average_precisions, evaluate_detections

CLASSES = VOCDataset.METAINFO["classes"]
ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "configs" / "detection" / "faster-rcnn_r50-c4_8xb2-24k_voc0712.py"


@pytest.fixture(scope="module")
def voc(photos, tmp_path_factory) -> Path:
    """voc-mini with every fifth object marked as difficult."""
    root = tmp_path_factory.mktemp("voc") / "VOCdevkit"
    shutil.copytree(photos("voc-mini") / "voc-mini" / "VOCdevkit", root)
    count = 0
    for path in sorted((root / "VOC2007" / "Annotations").glob("*.xml")):
        tree = ET.parse(path)
        for each in tree.findall("object"):
            each.find("difficult").text = str(int(count % 5 == 0))
            count += 1
        tree.write(path)
    return root


def detections_near(boxes: np.ndarray, labels: np.ndarray, random) -> tuple[np.ndarray, ...]:
    """Each box three times, moved by more and more, and ten anywhere; scores with ties."""
    moved = [boxes + random.normal(0, spread, boxes.shape) for spread in (2, 8, 20)]
    anywhere = random.uniform(0, 150, (10, 2))
    anywhere = np.hstack([anywhere, anywhere + random.uniform(5, 150, (10, 2))])
    found = np.vstack([*moved, anywhere]).astype(np.float32)
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    kinds = np.concatenate([labels, labels, labels, random.integers(0, 20, 10)])
    return found, kinds, random.integers(1, 50, len(found)).astype(np.float32) / 50


def independent_figures(root: Path, names: list[str], found: dict, file: Path) -> list[float]:
    """AP, AP50 and AP75 by pycocotools from a COCO file made of the XML files."""
    images, annotations = [], []
    for number, name in enumerate(names):
        images.append({"id": number, "file_name": name})
        for each in ET.parse(root / "VOC2007" / "Annotations" / f"{name}.xml").iter("object"):
            corners = [float(each.find("bndbox").find(key).text) for key in ("xmin", "ymin")]
            sides = [
                float(each.find("bndbox").find(end).text) - start
                for end, start in zip(("xmax", "ymax"), corners, strict=True)
            ]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 7 + CLASSES.index(each.find("name").text),
                    "bbox": [corners[0] - 1, corners[1] - 1, *sides],  # VOC counts from 1
                    "area": sides[0] * sides[1],
                    "iscrowd": int(each.find("difficult").text),
                }
            )
    categories = [{"id": 7 + i, "name": name} for i, name in enumerate(CLASSES)]
    file.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    rows = [
        {
            "image_id": names.index(name),
            "category_id": 7 + int(label),
            "bbox": [float(x1), float(y1), float(x2) - float(x1), float(y2) - float(y1)],
            "score": float(score),
        }
        for name, each in found.items()
        for (x1, y1, x2, y2), label, score in zip(*each, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [100 * value for value in evaluation.stats[:3]]


def test_figures_on_voc_are_those_of_pycocotools_on_the_xml_files(voc, tmp_path):
    config = load_config(str(RECIPE), {"data_root": str(voc)})
    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = DATASETS.build(config.test_dataloader.dataset)
    metric, random, found = CocoStyleAP(), np.random.default_rng(0), {}
    metric.dataset_meta = dataset.metainfo
    samples = [dataset[i]["data_samples"] for i in range(len(dataset))]
    assert sum(len(sample.ignored_instances) for sample in samples) > 20
    for sample in samples:
        truth = [sample.gt_instances, sample.ignored_instances]
        boxes = np.vstack([each.bboxes.tensor.numpy() for each in truth])
        labels = np.concatenate([each.labels.numpy() for each in truth])
        boxes, labels, scores = detections_near(boxes, labels, random)
        found[sample.img_id] = boxes, labels, scores
        sample.pred_instances = InstanceData(
            bboxes=torch.from_numpy(boxes),
            labels=torch.from_numpy(labels),
            scores=torch.from_numpy(scores),
        )
        for each in truth:
            each.bboxes = each.bboxes.tensor  # as the model hands them on
        metric.process({}, [sample.to_dict()])
    figures = metric.evaluate(len(dataset))
    names = (voc / "VOC2007/ImageSets/Main/test.txt").read_text().split()
    expected = independent_figures(voc, names, found, tmp_path / "truth.json")
    assert list(figures) == [f"coco_style/{name}" for name in ("AP", "AP50", "AP75")]
    assert 5 < expected[0] < expected[1] < 95
    np.testing.assert_allclose(list(figures.values()), expected, rtol=0, atol=1e-6)


def figures(objects: list, ignored: list, found: list, **options) -> dict[str, float]:
    """Of one image; boxes are (x1, y1, x2, y2, class), detections with a score at the end."""

    def instances(rows: list, names: tuple[str, ...]) -> dict:
        rows = torch.tensor(rows).view(-1, len(names) + 4)
        columns = {name: rows[:, 4 + i] for i, name in enumerate(names)}
        return {**columns, "bboxes": rows[:, :4], "labels": columns["labels"].long()}

    metric = CocoStyleAP(**options)
    metric.dataset_meta = {"classes": ("cat", "dog")}
    sample = {
        "img_path": "photos/000001.jpg",
        "gt_instances": instances(objects, ("labels",)),
        "ignored_instances": instances(ignored, ("labels",)),
        "pred_instances": instances(found, ("labels", "scores")),
    }
    metric.process({}, [sample])
    return {name.partition("/")[2]: value for name, value in metric.evaluate(1).items()}


CAT, DIFFICULT_CAT = [10.0, 10, 50, 50, 0], [60.0, 60, 90, 90, 0]


def test_a_difficult_object_neither_costs_nor_counts():
    perfect = pytest.approx({"AP": 100, "AP50": 100, "AP75": 100})
    assert figures([CAT], [DIFFICULT_CAT], [[*CAT, 0.5]]) == perfect
    assert figures([CAT], [DIFFICULT_CAT], [[*CAT, 0.5], [*DIFFICULT_CAT, 0.9]]) == perfect
    halved = figures([CAT], [], [[*CAT, 0.5], [*DIFFICULT_CAT, 0.9]])
    assert halved["AP50"] == pytest.approx(50)
    missed = figures([CAT, DIFFICULT_CAT], [], [[*CAT, 0.5]])
    assert missed["AP50"] == pytest.approx(100 * 51 / 101)


def test_images_without_detections_and_sets_without_objects():
    assert figures([CAT], [], []) == {"AP": 0, "AP50": 0, "AP75": 0}
    assert figures([CAT], [], [[*CAT[:4], 1, 0.9]])["AP"] == 0  # a dog
    assert figures([], [DIFFICULT_CAT], [[*CAT, 0.9]])["AP"] == -100


def test_images_of_two_folders_may_have_the_same_name():
    tensors = torch.tensor([CAT[:4]]), torch.tensor([0]), torch.tensor([0.9])
    box = dict(zip(("bboxes", "labels", "scores"), tensors, strict=True))
    none = {key: value[:0] for key, value in box.items()}
    metric = CocoStyleAP()
    metric.dataset_meta = {"classes": ("cat",)}
    for truth, found in ((box, none), (none, box)):  # missed in one, invented in the other
        parts = {"gt_instances": truth, "ignored_instances": none, "pred_instances": found}
        metric.process({}, [{"img_id": "000001", **parts}])
    assert metric.evaluate(2)["coco_style/AP"] == 0


def test_the_files_say_what_the_figures_do(tmp_path):
    found = [[*CAT, 0.5], [*DIFFICULT_CAT, 0.9], [*CAT[:4], 1, 0.7]]
    told = figures([CAT], [DIFFICULT_CAT], found, outfile_prefix=str(tmp_path / "new" / "voc"))
    truth = json.loads((tmp_path / "new" / "voc.gt.json").read_text())
    detections = json.loads((tmp_path / "new" / "voc.bbox.json").read_text())
    assert truth["images"] == [{"id": 0, "file_name": "photos/000001.jpg"}]
    assert [each["name"] for each in truth["categories"]] == ["cat", "dog"]
    assert [each["iscrowd"] for each in truth["annotations"]] == [0, 1]
    assert truth["annotations"][0]["bbox"] == [10, 10, 40, 40]
    assert [each["category_id"] for each in detections] == [0, 0, 1]
    assert average_precisions(evaluate_detections(truth, detections)) == told
    assert average_precisions(evaluate_detections(truth, [])) == {"AP": 0, "AP50": 0, "AP75": 0}


def test_boxes_of_double_precision_are_left_as_they_were():
    boxes = torch.tensor([CAT[:4]], dtype=torch.float64)
    truth = {"bboxes": boxes, "labels": torch.tensor([0])}
    none = {"bboxes": boxes[:0], "labels": torch.tensor([]), "scores": torch.tensor([])}
    sample = {"gt_instances": truth, "ignored_instances": none, "pred_instances": none}
    CocoStyleAP().process({}, [sample])
    assert boxes.tolist() == [CAT[:4]]
