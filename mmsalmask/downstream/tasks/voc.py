"""Detection on PASCAL VOC: Faster R-CNN C4, trained on 2007 and 2012, tested on 2007."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmsalmask.downstream.detection import PUBLISHED_IN, C4Task
from mmsalmask.downstream.tables import Published
from mmsalmask.downstream.task import Dataset

VOC = Dataset("voc", "VOC", "VOCdevkit")


class VOCDetection(C4Task):
    """AP by VOC's rules, as published, and by COCO's."""

    name = "voc"
    position = 30
    recipes = {VOC: "detection/faster-rcnn_r50-c4{filter}_8xb2-24k_voc0712.py"}
    published = Published(
        *PUBLISHED_IN, {"voc_ap": "VOC AP", "voc_ap50": "AP50", "voc_ap75": "AP75"}
    )

    def findings(self, figures: dict[str, float]) -> dict[str, Any]:
        names = {"voc_ap": "mAP", "voc_ap50": "AP50", "voc_ap75": "AP75"}
        return {
            "figures": {key: 100 * figures[f"pascal_voc/{name}"] for key, name in names.items()},
            "coco_style": {key: figures[f"coco_style/{key}"] for key in ("AP", "AP50", "AP75")},
            "truth": str(self.found / "found.gt.json"),
            "found": {"bbox": str(self.found / "found.bbox.json")},
            "images": "/",
        }

    @classmethod
    def report(cls, results: Sequence[Mapping[str, Any]]) -> str:
        return "".join(
            "\nVOC's AP is by VOC 2007's rules (11 points of recall). By COCO's rules: AP "
            f"{each['coco_style']['AP']:.2f}, AP50 {each['coco_style']['AP50']:.2f}, AP75 "
            f"{each['coco_style']['AP75']:.2f}.\n"
            for each in results
        )
