"""COCO's average precision of boxes whose truth is in no COCO file."""

import contextlib
import io
from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric
from mmengine.fileio import dump
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

    Args:
        outfile_prefix: write the truth to ``<prefix>.gt.json``, a COCO file whose images have their
            paths as ``file_name``, and the detections to ``<prefix>.bbox.json``, in COCO's format
            of results.
        collect_device: as in mmengine.
        prefix: put before the names of the figures.
    """

    default_prefix = "coco_style"

    def __init__(
        self,
        outfile_prefix: str | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.outfile_prefix = outfile_prefix

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep true and found boxes of each sample, both (x1, y1, x2, y2) in the photo's pixels.

        Args:
            data_batch: not used.
            data_samples: ``gt_instances`` and ``ignored_instances`` with ``bboxes`` (N, 4) and
                ``labels`` (N,); ``pred_instances`` with ``scores`` (N,), too.
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
            self.results.append((sample.get("img_path", ""), objects, detections))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """``AP``, ``AP50`` and ``AP75`` of all images."""
        names = self.dataset_meta["classes"]
        objects = _of_images(results, 1)
        truth = {
            "info": {},
            # Folders of images may have the same names: their place tells them apart.
            "images": [{"id": i, "file_name": path} for i, (path, _, _) in enumerate(results)],
            "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
            "annotations": [
                {**box, "id": i, "area": box["bbox"][2] * box["bbox"][3]}
                for i, box in enumerate(objects, 1)
            ],
        }
        detections = _of_images(results, 2)
        if self.outfile_prefix is not None:
            dump(truth, f"{self.outfile_prefix}.gt.json")
            dump(detections, f"{self.outfile_prefix}.bbox.json")
        return average_precisions(evaluate_detections(truth, detections))


def evaluate_detections(truth: dict, detections: list[dict], kind: str = "bbox") -> COCOeval:
    """Compare detections with the truth by COCO's rules.

    Args:
        truth: the content of a COCO annotation file.
        detections: the content of a file of COCO's results.
        kind: compare ``"bbox"`` or, where both have masks, ``"segm"``.

    Returns:
        The evaluation, accumulated and summarised.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its own progress
        known, found = COCO(), COCO()
        known.dataset = truth
        known.createIndex()
        if detections:
            found = known.loadRes([dict(each) for each in detections])
        else:
            found.dataset = {**truth, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(known, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def average_precisions(evaluation: COCOeval) -> dict[str, float]:
    """``AP``, ``AP50`` and ``AP75`` in percent; −100 without any object that counts."""
    return dict(zip(("AP", "AP50", "AP75"), (100 * evaluation.stats[:3]).tolist(), strict=True))


def _boxes(instances: dict) -> list[dict]:
    """Corners (x1, y1, x2, y2) → corner and size, with the label."""
    corners = instances["bboxes"].double()
    boxes = torch.cat((corners[:, :2], corners[:, 2:] - corners[:, :2]), dim=1)
    return [
        {"bbox": box, "category_id": label}
        for box, label in zip(boxes.tolist(), instances["labels"].tolist(), strict=True)
    ]


def _of_images(results: list, part: int) -> list[dict]:
    """All objects (1) or detections (2), each with the number of its image."""
    return [{**box, "image_id": i} for i, result in enumerate(results) for box in result[part]]
