"""COCO's average precision of boxes whose truth is in no COCO file."""

import contextlib
import io
from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmsalmask.registry import METRICS


@METRICS.register_module()
class CocoStyleAP(BaseMetric):
    """AP, AP50 and AP75 of boxes in percent, as COCO defines them, unrounded.

    The mean over the classes that have objects, over 101 levels of recall and, for AP, over the
    overlaps 0.5, 0.55 … 0.95; at most 100 detections of an image count. It is computed by
    pycocotools from what an mmdet pipeline with ``LoadAnnotations`` packs, for VOC for example.
    Objects that the dataset marks to be ignored, VOC's difficult ones, are what COCO calls a crowd:
    not finding them costs nothing, nor does a detection that lies on one.

    Without any object that counts, the figures are −100.
    """

    default_prefix = "coco_style"

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep true and found boxes of each sample, both (x1, y1, x2, y2) in the photo's pixels.

        Args:
            data_batch: not used.
            data_samples: ``img_id``; ``gt_instances`` and ``ignored_instances`` with ``bboxes``
                (N, 4) and ``labels`` (N,); ``pred_instances`` with ``scores`` (N,), too.
        """
        for sample in data_samples:
            truth, ignored, found = (
                sample[f"{name}_instances"] for name in ("gt", "ignored", "pred")
            )
            objects = [
                {**box, "iscrowd": crowd}
                for crowd, instances in enumerate((truth, ignored))
                for box in _boxes(instances)
            ]
            scores = found["scores"].tolist()
            detections = [
                {**box, "score": score} for box, score in zip(_boxes(found), scores, strict=True)
            ]
            self.results.append((sample["img_id"], objects, detections))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """``AP``, ``AP50`` and ``AP75`` of all images."""
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": image} for image, _, _ in results],
            "categories": [{"id": i} for i in range(len(self.dataset_meta["classes"]))],
            "annotations": _numbered(results, 1),
        }
        found = COCO()
        found.dataset = {**truth.dataset, "annotations": _numbered(results, 2)}
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its own progress
            truth.createIndex()
            found.createIndex()
            evaluation = COCOeval(truth, found, "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return dict(zip(("AP", "AP50", "AP75"), (100 * evaluation.stats[:3]).tolist(), strict=True))


def _boxes(instances: dict) -> list[dict]:
    """Corners (x1, y1, x2, y2) → corner and size, with the label."""
    corners = instances["bboxes"].double()
    boxes = torch.cat((corners[:, :2], corners[:, 2:] - corners[:, :2]), dim=1)
    return [
        {"bbox": box, "category_id": label}
        for box, label in zip(boxes.tolist(), instances["labels"].tolist(), strict=True)
    ]


def _numbered(results: list, part: int) -> list[dict]:
    """All objects (1) or detections (2), each with its image's id and one of its own from 1."""
    boxes = [{**box, "image_id": result[0]} for result in results for box in result[part]]
    return [
        {**box, "id": i, "area": box["bbox"][2] * box["bbox"][3]} for i, box in enumerate(boxes, 1)
    ]
