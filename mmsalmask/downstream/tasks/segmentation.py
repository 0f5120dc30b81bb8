"""Semantic segmentation of VOC and Cityscapes: FCN."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmsalmask.downstream import trained
from mmsalmask.downstream.tables import markdown_table
from mmsalmask.downstream.task import Curves, Dataset, Picture, merge
from mmsalmask.downstream.tasks.voc import VOC
from mmsalmask.visualization.drawings import draw_segmentations

CITYSCAPES = Dataset("cityscapes", "Cityscapes", "cityscapes")


class Segmentation(trained.TrainedTask):
    """mIoU, and maps of the first test images to draw."""

    name = "seg"
    position = 50
    heading = "Semantic segmentation"
    recipes = {
        VOC: "segmentation/fcn_r50-d8{filter}_4xb4-20k_voc12aug-512x512.py",
        CITYSCAPES: "segmentation/fcn_r50-d8{filter}_4xb2-40k_cityscapes-769x769.py",
    }

    def options(self) -> dict[str, Any]:
        root = self.root / "VOC2012" if self.dataset == VOC else self.root
        return {"data_root": str(root)}

    def widths(self, config: Config, res4: int, res5: int) -> dict[str, Any]:
        return {"decode_head.in_channels": res5, "auxiliary_head.in_channels": res4}

    def shrink(self, config: Config) -> None:
        """Small crops of images at most twice as wide, narrow heads, few steps."""
        merge(config, {"decode_head.channels": 64, "auxiliary_head.channels": 64})
        crop = (trained.SMALL_SIDE, trained.SMALL_SIDE)
        config.model.data_preprocessor.size = crop
        config.model.test_cfg = dict(mode="whole")
        scale = (2 * crop[0], crop[0])
        for transform in config.train_dataloader.dataset.pipeline:
            for key, value in (("scale", scale), ("crop_size", crop), ("size", crop)):
                if key in transform:
                    transform[key] = value
        trained.few_steps(config)
        config.param_scheduler[0].end = trained.SMALL_ITERATIONS
        trained.small_test(config, scale)

    def keep(self, config: Config) -> None:
        """Maps of classes, a PNG per image."""
        config.test_evaluator.output_dir = str(self.found)

    def findings(self, figures: dict[str, float]) -> dict[str, Any]:
        truth = segmentation_truth(self.config, 4)
        maps = [str(self.found / f"{Path(photo).stem}.png") for photo in truth["photos"]]
        figures = {key: figures[key] for key in ("mIoU", "mAcc", "aAcc")}
        return {"figures": figures, "shown": {**truth, "found": maps}}

    @classmethod
    def report(cls, results: Sequence[Mapping[str, Any]]) -> str:
        rows = [
            [cls.title(each), *(f"{each['figures'][key]:.2f}" for key in ("mIoU", "mAcc"))]
            for each in results
        ]
        table = markdown_table(["dataset", "mIoU %", "mean accuracy of classes %"], rows)
        return table + "\nThere is no published row of these recipes to put beside them.\n"

    @classmethod
    def draw(cls, result: Mapping[str, Any], file: Path) -> list[Picture | Curves]:
        draw_segmentations(**result["shown"], picture=file)
        caption = (
            "The first test images; grey is background, white pixels of the truth do not count."
        )
        return [Picture(file, f"Segmentation of {cls.title(result)}", caption)]


def segmentation_truth(config: Config, count: int) -> dict[str, list]:
    """``photos`` and their ``truth``, paths of the first images that a segmentation recipe tests.

    And the names and colours of the ``classes`` in the truth: ``classes`` and ``palette``.
    """
    dataset = trained.build_dataset(config, "test")
    images = [dataset.get_data_info(i) for i in range(min(count, len(dataset)))]
    return {
        "photos": [image["img_path"] for image in images],
        "truth": [image["seg_map_path"] for image in images],
        **{key: list(dataset.metainfo[key]) for key in ("classes", "palette")},
    }
