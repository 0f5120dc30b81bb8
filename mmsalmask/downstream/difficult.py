"""VOC's objects that are marked as difficult."""

from mmcv.transforms import BaseTransform

from mmsalmask.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LearnDifficult(BaseTransform):
    """Learn from objects that VOC marks as difficult, as detectron2 does; for training alone.

    mmdet's ``VOCDataset`` ignores them, and what its detectors find there is taught to be
    background. It stands before ``LoadAnnotations``. A box without area, which has no logarithm,
    stays ignored. Not for COCO, where what is ignored are crowds.

    Modified key: ``instances``, dicts with ``bbox`` (x1, y1, x2, y2) and ``ignore_flag``.
    """

    def transform(self, results: dict) -> dict:
        results["instances"] = [
            {**instance, "ignore_flag": int(not _has_area(instance["bbox"]))}
            for instance in results["instances"]
        ]
        return results

    def __repr__(self) -> str:
        return "LearnDifficult()"


def _has_area(box: list[float]) -> bool:
    return box[2] > box[0] and box[3] > box[1]
