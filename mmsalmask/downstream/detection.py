"""What detection with C4 detectors has in common on all datasets."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from pycocotools.cocoeval import COCOeval

from mmsalmask.downstream import trained
from mmsalmask.downstream.boxes import evaluate_detections
from mmsalmask.downstream.task import Curves, Picture, merge
from mmsalmask.visualization.drawings import draw_detections

PUBLISHED_IN = ("table2_detection.csv", "Table 2 (AP, %)")
_KINDS = {"bbox": "boxes", "segm": "masks"}


class C4Task(trained.TrainedTask):
    """Fine-tuning of all layers of Faster or Mask R-CNN with a C4 backbone.

    A result has ``truth`` and ``found``, COCO files of annotations and of detections (by kind),
    and ``images``, the folder that file names of the truth are relative to.
    """

    heading = "Detection and instance segmentation"

    def widths(self, config: Config, res4: int, res5: int) -> dict[str, Any]:
        widths = {
            "rpn_head.in_channels": res4,
            "roi_head.shared_head.depth": config.model.backbone.depth,
            "roi_head.bbox_roi_extractor.out_channels": res4,
            "roi_head.bbox_head.in_channels": res5,
        }
        if "mask_head" in config.model.roi_head:
            widths["roi_head.mask_head.in_channels"] = res5
        return widths

    def shrink(self, config: Config) -> None:
        """Small images, few RoIs of half the size, small anchors, few steps."""
        few = {"nms_pre": 400, "max_per_img": 50}
        merge(
            config,
            {
                "rpn_head.feat_channels": 256,
                "rpn_head.anchor_generator.scales": [1, 2, 4, 8],
                "roi_head.bbox_roi_extractor.roi_layer.output_size": 7,
                "roi_head.bbox_head.roi_feat_size": 4,
                "train_cfg.rcnn.sampler.num": 16,
                **{f"train_cfg.rpn_proposal.{key}": value for key, value in few.items()},
                **{f"test_cfg.rpn.{key}": value for key, value in few.items()},
            },
        )
        if "mask_head" in config.model.roi_head:
            narrow = {"roi_head.mask_head.conv_out_channels": 64, "train_cfg.rcnn.mask_size": 8}
            merge(config, narrow)
        trained.few_steps(config)
        steps = trained.SMALL_ITERATIONS
        for hook in config.custom_hooks:
            if hook.type == "mmsalmask.PreciseBNHook":
                hook.iterations = max(1, steps // 20)
        config.param_scheduler[0].end = max(1, steps // 10)
        config.param_scheduler[1].milestones = [steps * 4 // 5]
        scale = (trained.SMALL_SIDE, trained.SMALL_SIDE)
        for transform in config.train_dataloader.dataset.pipeline:
            if transform.type == "RandomChoiceResize":
                transform.scales = [scale]
        trained.small_test(config, scale)

    def keep(self, config: Config) -> None:
        """Boxes go to ``found.bbox.json``, masks of objects to ``found.segm.json``.

        What no other file holds of the truth goes to ``found.gt.json``.
        """
        metrics = config.test_evaluator
        for metric in metrics if isinstance(metrics, list) else [metrics]:
            if metric.type in ("mmsalmask.CocoStyleAP", "CocoMetric"):
                metric.outfile_prefix = str(self.found / "found")

    @classmethod
    def draw(cls, result: Mapping[str, Any], file: Path) -> list[Picture | Curves]:
        evaluations, title = detection_evaluations(result), cls.title(result)
        kind, evaluation = list(evaluations.items())[-1]
        caption = (
            "Above the truth; below as many detections, those with the best scores, if there are "
            "so many."
        )
        if all(each.get("iscrowd") for each in evaluation.cocoGt.dataset["annotations"]):
            file, caption = None, "The test images show no object that counts."
        else:
            draw_detections(evaluation, Path(result["images"]), file, kind)
        curves = [Curves(f"{title}, {_KINDS[kind]}", each) for kind, each in evaluations.items()]
        return [*curves, Picture(file, f"Found on {title}", caption)]


def detection_evaluations(result: Mapping[str, Any]) -> dict[str, COCOeval]:
    """COCO's evaluation of the boxes, and of the masks where there are, of a detection result.

    Args:
        result: has ``truth``, ``found`` and ``test_images``, how many images of the truth, the
            first, were tested.
    """
    truth = json.loads(Path(result["truth"]).read_text())
    images = truth["images"][: result["test_images"]]
    tested = {image["id"] for image in images}
    objects = [each for each in truth["annotations"] if each["image_id"] in tested]
    truth = {**truth, "images": images, "annotations": objects}
    return {
        kind: evaluate_detections(truth, json.loads(Path(file).read_text()), kind)
        for kind, file in result["found"].items()
    }
