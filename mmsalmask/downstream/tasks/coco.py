"""Detection and instance segmentation on COCO: Mask R-CNN C4."""

from pathlib import Path
from typing import Any

from mmsalmask.downstream.boxes import average_precisions
from mmsalmask.downstream.detection import PUBLISHED_IN, C4Task, detection_evaluations
from mmsalmask.downstream.tables import Published
from mmsalmask.downstream.task import Dataset

COCO = Dataset("coco", "COCO", "coco")


class COCODetection(C4Task):
    """AP of boxes and of masks."""

    name = "coco"
    position = 40
    recipes = {COCO: "detection/mask-rcnn_r50-c4{filter}_8xb1-180k_coco.py"}
    published = Published(
        *PUBLISHED_IN,
        {
            "coco_box_ap": "COCO box AP",
            "coco_box_ap50": "AP50",
            "coco_box_ap75": "AP75",
            "coco_mask_ap": "mask AP",
            "coco_mask_ap50": "AP50",
            "coco_mask_ap75": "AP75",
        },
    )

    def findings(self, figures: dict[str, float]) -> dict[str, Any]:
        """The figures of mmdet are rounded: these are from the detections themselves."""
        dataset = self.config.test_dataloader.dataset
        files = {
            "truth": str(self.config.test_evaluator.ann_file),
            "found": {kind: str(self.found / f"found.{kind}.json") for kind in ("bbox", "segm")},
            "images": str(Path(dataset.data_root, dataset.data_prefix.img)),
        }
        evaluations = detection_evaluations({**self.counts, **files})
        unrounded = {
            f"coco_{name}_{key.lower()}": value
            for name, kind in (("box", "bbox"), ("mask", "segm"))
            for key, value in average_precisions(evaluations[kind]).items()
        }
        return {"figures": unrounded, **files}
