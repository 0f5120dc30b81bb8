"""Downstream recipes fitted to one backbone: its depth, its data, and what a small machine bears.

The recipes of ``configs/linear``, ``configs/detection`` and ``configs/segmentation`` are for a
ResNet-50, for several GPUs and for data below ``data/``.
"""

import contextlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from mmpretrain.models import ResNet
from torch import Tensor
from torch.utils.data import Dataset

from mmsalmask.checkpoint import check_matches
from mmsalmask.config import check_config, load_config
from mmsalmask.engine.hooks.classes import base_datasets
from mmsalmask.engine.paths import check_data_paths
from mmsalmask.errors import InputError


def resnet_depth(state: Mapping[str, Tensor], name: str) -> int:
    """The depth of the plain ResNet whose backbone a state dict is.

    Args:
        state: as :func:`mmsalmask.checkpoint.backbone_state` gives it.
        name: of the checkpoint, for the message.

    Raises:
        InputError: for another net, one with a deep stem or of another width, for example.
    """
    stages = tuple(
        len({name.split(".")[1] for name in state if name.startswith(f"layer{stage}.")})
        for stage in range(1, 5)
    )
    for depth, (_, blocks) in ResNet.arch_settings.items():
        if blocks != stages:
            continue
        with contextlib.suppress(InputError):
            check_matches(ResNet(depth), state, name)
            return depth
    raise InputError(
        f"the backbone in {name} is no plain ResNet of {_LIST} layers, for which the downstream "
        "recipes are: use tools/knn.py and tools/linear.py with the config of its pretraining"
    )


_LIST = ", ".join(map(str, ResNet.arch_settings))


def downstream_config(
    recipe: str | Path,
    backbone: str | Path,
    depth: int,
    data: Mapping[str, Any],
    batch: int,
    small: bool = False,
    seed: int = 0,
) -> Config:
    """A recipe for one process, started from an exported backbone, on data that lies elsewhere.

    Args:
        recipe: of ``configs/linear``, ``configs/detection`` or ``configs/segmentation``.
        backbone: the file that the backbone starts from.
        depth: of its ResNet; the layers behind it get the widths of its features.
        data: options that say where the data lies and how it is split.
        batch: images of one step of all processes of the recipe together, now of one.
        small: shrink images, heads and schedule to what two CPU cores do in minutes. What comes
            out shows that everything works and compares with nothing.
        seed: of the run.

    Raises:
        InputError: the recipe or an option is not there.
    """
    options = {
        **data,
        "randomness.seed": seed,
        "model.backbone.depth": depth,
        "model.backbone.init_cfg.checkpoint": str(backbone),
    }
    config = load_config(str(recipe), options)
    loader = config.train_dataloader
    workers = loader.num_workers * batch // loader.batch_size  # one process does the work of all
    loader.batch_size, loader.num_workers = batch, min(workers, os.cpu_count() or 1)
    kind = next(kind for part, kind in _KINDS.items() if part in config.model)
    _merge(config, _widths(config, 1 if depth < 50 else 4)[kind])
    if small:
        _SHRINK[kind](config)
        for loader in (config.train_dataloader, config.val_dataloader):
            loader.num_workers, loader.persistent_workers = 1, True
        config.test_dataloader = config.val_dataloader
        config.default_hooks.logger.interval = 10
    check_config(config)
    return config


_KINDS = {"roi_head": "detection", "decode_head": "segmentation", "head": "linear"}


def _merge(config: Config, options: dict[str, Any]) -> None:
    config.merge_from_dict({f"model.{name}": value for name, value in options.items()})


def _widths(config: Config, expansion: int) -> dict[str, dict[str, Any]]:
    """What follows from the width of a ResNet's blocks: res4 has 256, res5 512 times expansion."""
    res4, res5 = 256 * expansion, 512 * expansion
    detection = {
        "rpn_head.in_channels": res4,
        "roi_head.shared_head.depth": config.model.backbone.depth,
        "roi_head.bbox_roi_extractor.out_channels": res4,
        "roi_head.bbox_head.in_channels": res5,
    }
    if "mask_head" in config.model.get("roi_head", {}):
        detection["roi_head.mask_head.in_channels"] = res5
    return {
        "linear": {"head.in_channels": res5},
        "detection": detection,
        "segmentation": {"decode_head.in_channels": res5, "auxiliary_head.in_channels": res4},
    }


# ------------------------------------------------------------------------------- small schedules

SMALL_SIDE = 160
SMALL_BATCH = 4
SMALL_ITERATIONS = 200
SMALL_TEST_IMAGES = 200


def _shrink_linear(config: Config) -> None:
    raise InputError("there is no small linear recipe: tools/linear.py is the quick way")


def _shrink_detection(config: Config) -> None:
    """Small images, few RoIs of half the size, small anchors, few steps."""
    few = {"nms_pre": 400, "max_per_img": 50}
    _merge(
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
        _merge(config, {"roi_head.mask_head.conv_out_channels": 64, "train_cfg.rcnn.mask_size": 8})
    _few_steps(config)
    for hook in config.custom_hooks:
        if hook.type == "mmsalmask.PreciseBNHook":
            hook.iterations = max(1, SMALL_ITERATIONS // 20)
    config.param_scheduler[0].end = max(1, SMALL_ITERATIONS // 10)
    config.param_scheduler[1].milestones = [SMALL_ITERATIONS * 4 // 5]
    scale = (SMALL_SIDE, SMALL_SIDE)
    for transform in config.train_dataloader.dataset.pipeline:
        if transform.type == "RandomChoiceResize":
            transform.scales = [scale]
    _small_test(config, scale)


def _shrink_segmentation(config: Config) -> None:
    """Small crops of images at most twice as wide, narrow heads, few steps."""
    _merge(config, {"decode_head.channels": 64, "auxiliary_head.channels": 64})
    crop = (SMALL_SIDE, SMALL_SIDE)
    config.model.data_preprocessor.size = crop
    config.model.test_cfg = dict(mode="whole")
    scale = (2 * crop[0], crop[0])
    for transform in config.train_dataloader.dataset.pipeline:
        for key, value in (("scale", scale), ("crop_size", crop), ("size", crop)):
            if key in transform:
                transform[key] = value
    _few_steps(config)
    config.param_scheduler[0].end = SMALL_ITERATIONS
    _small_test(config, scale)


def _few_steps(config: Config) -> None:
    config.optim_wrapper.optimizer.lr *= SMALL_BATCH / config.train_dataloader.batch_size
    config.train_dataloader.batch_size = SMALL_BATCH
    config.train_cfg.update(
        max_iters=SMALL_ITERATIONS, val_interval=SMALL_ITERATIONS, val_begin=SMALL_ITERATIONS + 1
    )
    config.default_hooks.checkpoint.interval = max(1, SMALL_ITERATIONS // 4)


def _small_test(config: Config, scale: tuple[int, int]) -> None:
    dataset = config.val_dataloader.dataset
    dataset.indices = SMALL_TEST_IMAGES
    for transform in dataset.pipeline:
        if transform.type == "Resize":
            transform.scale = scale


_SHRINK = {
    "detection": _shrink_detection,
    "segmentation": _shrink_segmentation,
    "linear": _shrink_linear,
}


# --------------------------------------------------------------------------- what a test leaves


def keep_predictions(config: Config, folder: Path) -> None:
    """Let the metrics of a detection or segmentation recipe write what was found into a folder.

    Boxes go to ``found.bbox.json``, masks of objects to ``found.segm.json``, maps of classes to a
    PNG per image; what no other file holds of the truth to ``found.gt.json``.
    """
    metrics = config.test_evaluator
    for metric in metrics if isinstance(metrics, list) else [metrics]:
        if metric.type in ("mmsalmask.CocoStyleAP", "CocoMetric"):
            metric.outfile_prefix = str(folder / "found")
        elif metric.type == "IoUMetric":
            metric.output_dir = str(folder)


def count_images(config: Config) -> dict[str, int]:
    """``train_images``, ``test_images`` and ``shared_images``, those that are among both.

    Raises:
        InputError: the data is not there.
    """
    check_data_paths(config, ("train_dataloader", "test_dataloader"))
    train, test = ({*image_paths(config, loader)} for loader in ("train", "test"))
    shared = len(train & test)
    return {"train_images": len(train), "test_images": len(test), "shared_images": shared}


def image_paths(config: Config, loader: str) -> list[str]:
    """Paths of the images that the ``train`` or ``test`` loader of a config reads, in order."""
    parts = base_datasets(_build(config, loader))
    return [part.get_data_info(i)["img_path"] for part in parts for i in range(len(part))]


def segmentation_truth(config: Config, count: int) -> dict[str, list]:
    """``photos`` and their ``truth``, paths of the first images that a segmentation recipe tests.

    And the names and colours of the ``classes`` in the truth: ``classes`` and ``palette``.
    """
    dataset = _build(config, "test")
    images = [dataset.get_data_info(i) for i in range(min(count, len(dataset)))]
    return {
        "photos": [image["img_path"] for image in images],
        "truth": [image["seg_map_path"] for image in images],
        **{key: list(dataset.metainfo[key]) for key in ("classes", "palette")},
    }


def _build(config: Config, loader: str) -> Dataset:
    quiet = contextlib.redirect_stdout(io.StringIO())  # pycocotools reports its own progress
    with quiet, DefaultScope.overwrite_default_scope(config.default_scope):
        return DATASETS.build(config[f"{loader}_dataloader"].dataset)
