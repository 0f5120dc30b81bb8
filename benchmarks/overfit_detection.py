"""Does Mask R-CNN C4 learn eight photos by heart, boxes and masks alike?

Takes the recipe configs/detection/mask-rcnn_r50-c4_8xb2-1x_coco.py to a ResNet-18, small images and
few RoIs, trains it from random weights on the first photos of a COCO set that show one to five
objects, none small or a crowd, and tests it on the same photos. A wrong label, a box or mask in the
wrong place or scale, or a layer that does not learn keeps the average precision down.

    python benchmarks/overfit_detection.py [--photos coco-mini] [--json FILE]
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from photos import unpack

from mmsalmask.cli import report_errors
from mmsalmask.config import load_config
from mmsalmask.engine.launch import build_runner
from mmsalmask.errors import InputError
from mmsalmask.provenance import provenance, write_result

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "configs" / "detection" / "mask-rcnn_r50-c4_8xb2-1x_coco.py"
MOST_OBJECTS, SMALLEST_SIDE = 5, 1 / 8
FIGURES = ("bbox_mAP", "bbox_mAP_50", "bbox_mAP_75", "segm_mAP", "segm_mAP_50", "segm_mAP_75")


def choose(annotations: dict, count: int) -> dict:
    """A COCO set of the first photos that show a few objects which small images still tell apart.

    Raises:
        InputError: if there are fewer than ``count``.
    """
    objects = defaultdict(list)
    for each in annotations["annotations"]:
        objects[each["image_id"]].append(each)

    def suits(image: dict) -> bool:
        smallest = SMALLEST_SIDE * max(image["width"], image["height"])
        shown = objects[image["id"]]
        return 1 <= len(shown) <= MOST_OBJECTS and all(
            not each["iscrowd"] and min(each["bbox"][2:]) >= smallest for each in shown
        )

    photos = sorted(filter(suits, annotations["images"]), key=lambda image: image["id"])[:count]
    if len(photos) < count:
        raise InputError(f"the set has only {len(photos)} suitable photos: set --count to that")
    shown = [each for photo in photos for each in objects[photo["id"]]]
    return {**annotations, "images": photos, "annotations": shown}


def small_recipe(folder: Path, truth: Path, options: argparse.Namespace):
    """The recipe on a ResNet-18 with images, batches and RoIs that a CPU can train."""
    width = 256  # of a ResNet-18's res4
    dataset = {"data_root": str(folder), "ann_file": str(truth), "data_prefix.img": "train2017/"}
    scale = (options.size, options.size)
    few = {"nms_pre": 400, "max_per_img": 100}
    config = load_config(
        str(RECIPE),
        {
            "model.backbone.depth": 18,
            "model.backbone.init_cfg": None,
            "model.rpn_head.in_channels": width,
            "model.rpn_head.feat_channels": width,
            "model.rpn_head.anchor_generator.scales": [2, 4, 8],
            "model.roi_head.shared_head.depth": 18,
            "model.roi_head.bbox_roi_extractor.out_channels": width,
            "model.roi_head.bbox_roi_extractor.roi_layer.output_size": 7,
            "model.roi_head.bbox_head.roi_feat_size": 4,
            "model.roi_head.bbox_head.in_channels": 2 * width,
            "model.roi_head.mask_head.in_channels": 2 * width,
            "model.roi_head.mask_head.conv_out_channels": 64,
            "model.train_cfg.rcnn.mask_size": 8,
            "model.train_cfg.rcnn.sampler.num": options.rois,
            "model.train_cfg.rcnn.sampler.pos_fraction": 0.5,
            **{f"model.train_cfg.rpn_proposal.{key}": value for key, value in few.items()},
            **{f"model.test_cfg.rpn.{key}": value for key, value in few.items()},
            "train_dataloader.batch_size": options.batch,
            "val_dataloader.dataset.pipeline.1.scale": scale,
            "val_evaluator.ann_file": str(truth),
            "optim_wrapper.optimizer.lr": options.lr,
            "param_scheduler.0.end": options.steps // 6,
            "param_scheduler.1.milestones": [options.steps * 4 // 5],
            "train_cfg.max_iters": options.steps,
            "train_cfg.val_interval": options.steps // 4,
            "default_hooks.checkpoint.interval": options.steps,
            "default_hooks.logger.interval": 10,
            "custom_hooks.1.iterations": max(1, options.count // options.batch),
            "randomness.seed": options.seed,
            **{f"train_dataloader.dataset.{key}": value for key, value in dataset.items()},
            **{f"val_dataloader.dataset.{key}": value for key, value in dataset.items()},
        },
    )
    config.train_dataloader.dataset.pipeline[2] = dict(type="Resize", scale=scale, keep_ratio=True)
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.num_workers, loader.persistent_workers = 0, False
    config.test_dataloader, config.test_evaluator = config.val_dataloader, config.val_evaluator
    return config


def learn(folder: Path, work: Path, options: argparse.Namespace) -> dict:
    """Train and test on chosen photos of a COCO folder; what was reached, and how long it took."""
    source = folder / "annotations" / "instances_train2017.json"
    chosen = choose(json.loads(source.read_text()), options.count)
    truth = work / "chosen.json"
    truth.write_text(json.dumps(chosen))
    config = small_recipe(folder, truth, options)
    config.work_dir = str(work / "run")
    runner = build_runner(config)
    start, cpu_start = time.perf_counter(), time.process_time()
    runner.train()
    history = runner.message_hub.log_scalars
    return {
        "photos": [photo["file_name"] for photo in chosen["images"]],
        "objects": len(chosen["annotations"]),
        "steps": options.steps,
        "minutes": round((time.perf_counter() - start) / 60, 1),
        "cpu_minutes": round((time.process_time() - cpu_start) / 60, 1),
        **{name: round(float(history[f"val/coco/{name}"].data[0][-1]), 3) for name in FIGURES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", default="coco-mini", help="name of the photo set")
    parser.add_argument("--count", type=int, default=8, help="photos (%(default)s)")
    parser.add_argument("--size", type=int, default=160, help="longer side in px (%(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="images (%(default)s)")
    parser.add_argument("--rois", type=int, default=8, help="of an image (%(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="iterations (%(default)s)")
    parser.add_argument("--lr", type=float, default=0.02, help="learning rate (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = learn(unpack(options.photos, folder), Path(folder), options)
    print(json.dumps(result, indent=2))
    if options.json:
        settings = {name: getattr(options, name) for name in ("size", "batch", "rois", "lr")}
        write_result(options.json, {**provenance(options.seed), **settings, "results": result})
        print(f"written: {options.json}")


if __name__ == "__main__":
    with report_errors():
        main()
