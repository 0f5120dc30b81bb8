"""Downstream recipes follow the backbone, and small ones keep what makes them what they are."""

from functools import partial
from pathlib import Path

import pytest
import torch

import mmsalmask  # noqa: F401  serves mmcv's operators where they are not compiled

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")
from drawn import setting
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.models import ResNet, ResNetV1c

from mmsalmask.checkpoint import save_backbone
from mmsalmask.config import load_config
from mmsalmask.downstream.backbone import resnet_depth
from mmsalmask.downstream.tasks.coco import COCO, COCODetection
from mmsalmask.downstream.tasks.segmentation import CITYSCAPES, Segmentation, segmentation_truth
from mmsalmask.downstream.tasks.voc import VOC, VOCDetection
from mmsalmask.downstream.trained import (
    SMALL_BATCH,
    SMALL_ITERATIONS,
    count_images,
    image_paths,
)
from mmsalmask.errors import InputError

FILTERED = {"high_pass": "true"}


@pytest.mark.parametrize("depth", [18, 50])
def test_the_depth_of_a_plain_resnet_is_found(depth):
    state = ResNet(depth).state_dict()
    old = {name: value for name, value in state.items() if "num_batches" not in name}
    assert resnet_depth(state, "file") == resnet_depth(old, "file") == depth


@pytest.mark.parametrize("net", [ResNetV1c, partial(ResNet, base_channels=32)])
def test_a_deep_stem_and_another_width_are_refused(net):
    with pytest.raises(InputError, match=r"the backbone in my\.pth is no plain ResNet of 18, 34"):
        resnet_depth(net(depth=18).state_dict(), "my.pth")


@pytest.mark.parametrize(
    ("kind", "dataset", "depth", "facts", "batch"),
    [
        (VOCDetection, VOC, 50, FILTERED, 16),
        (COCODetection, COCO, 18, {}, 8),
        (Segmentation, VOC, 18, {}, 16),
        (Segmentation, CITYSCAPES, 50, FILTERED, 8),
    ],
    ids=["voc", "coco", "fcn", "cityscapes"],
)
def test_a_small_recipe_trains_a_backbone_of_any_depth(
    tmp_path, kind, dataset, depth, facts, batch
):
    start = tmp_path / "backbone.pth"
    pretrained = ResNet(depth).state_dict()
    save_backbone(pretrained, start, "openmmlab", {})
    data = {dataset.name: "my/data"}
    options = dict(schedule="small", depth=depth, file=start, facts=facts, data=data)
    task = kind(dataset, setting(tmp_path, **options))
    config, recipe = task.fit(), task.recipe
    assert config.train_dataloader.batch_size == SMALL_BATCH
    rate = load_config(str(recipe)).optim_wrapper.optimizer.lr
    assert config.optim_wrapper.optimizer.lr == rate * SMALL_BATCH / batch, "by the batch"
    assert config.train_cfg.max_iters == SMALL_ITERATIONS
    precise = [hook.iterations for hook in config.custom_hooks if "iterations" in hook]
    assert precise == ([SMALL_ITERATIONS // 20] if "roi_head" in config.model else [])
    assert max(config.param_scheduler[-1].get("milestones", [0])) < SMALL_ITERATIONS
    assert "my/data" in str(config.test_dataloader.dataset)
    assert config.test_dataloader == config.val_dataloader
    for loader in ("train", "test"):
        pipeline = config[f"{loader}_dataloader"].dataset.pipeline
        filtered = any(step.type == "mmsalmask.HighPassFilter" for step in pipeline)
        assert filtered == ("highpass" in recipe.stem)
        assert all(max(size) <= 320 for step in pipeline for size in sizes(step))
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = MODELS.build(config.model)
    model.init_weights()
    assert torch.equal(model.backbone.state_dict()["conv1.weight"], pretrained["conv1.weight"])
    features = model.eval().extract_feat(torch.zeros(1, 3, 64, 64))
    if "roi_head" in config.model:
        rois = torch.tensor([[0.0, 0, 0, 40, 40], [0.0, 8, 8, 60, 30]])
        scores = model.roi_head._bbox_forward(features, rois)["cls_score"]
        assert scores.shape == (2, config.model.roi_head.bbox_head.num_classes + 1)
    else:
        classes = config.model.decode_head.num_classes
        assert model.decode_head(features).shape == (1, classes, 8, 8)
        assert model.auxiliary_head(features).shape == (1, classes, 8, 8)


def sizes(step: dict) -> list[tuple[int, int]]:
    """All sizes in pixels that a transform works with."""
    named = [step[key] for key in ("scale", "crop_size", "size") if key in step]
    return [*named, *step.get("scales", [])]


def test_a_full_recipe_is_left_as_it_is_but_for_the_backbone_and_one_process(tmp_path):
    task = COCODetection(COCO, setting(tmp_path, seed=3))
    recipe = load_config(str(task.recipe), {"data_root": str(tmp_path / "coco")})
    config = task.fit()
    changed = {
        "randomness": {"seed": 3},
        "model": {**recipe.model, "backbone": {**recipe.model.backbone}},
        "train_dataloader": {
            **recipe.train_dataloader,
            "batch_size": 8,
            "num_workers": config.train_dataloader.num_workers,
        },
        "test_evaluator": {
            **recipe.test_evaluator,
            "outfile_prefix": str(tmp_path / "out" / "coco" / "found" / "found"),
        },
    }
    changed["model"]["backbone"]["init_cfg"] = dict(type="Pretrained", checkpoint="backbone.pth")
    for key in recipe:
        assert config[key] == changed.get(key, recipe[key]), key
    assert config.train_dataloader.num_workers >= 1


def test_predictions_are_kept_where_each_metric_can(tmp_path):
    found = tmp_path / "out" / "voc" / "found" / "found"
    voc = VOCDetection(VOC, setting(tmp_path, depth=18)).fit()
    assert voc.test_evaluator[0].outfile_prefix == str(found)
    fcn = Segmentation(VOC, setting(tmp_path, depth=18)).fit()
    assert fcn.test_evaluator.output_dir == str(tmp_path / "out" / "seg-voc" / "found")


def test_images_are_counted_and_those_on_both_sides_told(photos, tmp_path):
    voc = photos("voc-mini") / "voc-mini" / "VOCdevkit"
    shared = setting(tmp_path, schedule="small", depth=18, data={"voc": voc})
    config = VOCDetection(VOC, shared).fit()
    lists = [voc / f"VOC{year}/ImageSets/Main/trainval.txt" for year in (2007, 2012)]
    names = [name for file in lists for name in file.read_text().split()]
    test = (voc / "VOC2007/ImageSets/Main/test.txt").read_text().split()
    counts = count_images(config)
    assert counts == {
        "train_images": len(names),
        "test_images": len(test),
        "shared_images": 0,
    }
    first = [f"{voc}/VOC2007/JPEGImages/{name}.jpg" for name in test]
    assert image_paths(config, "test") == first
    config.test_dataloader.dataset.ann_file = "VOC2007/ImageSets/Main/trainval.txt"
    config.test_dataloader.dataset.indices = 5
    assert count_images(config)["shared_images"] == 5
    config.test_dataloader.dataset.ann_file = "VOC2007/ImageSets/Main/none.txt"
    with pytest.raises(InputError, match=r"there is no .*none\.txt"):
        count_images(config)

    config = Segmentation(VOC, shared).fit()
    shown = segmentation_truth(config, 2)
    photo, truth = (Path(shown[key][1]) for key in ("photos", "truth"))
    assert len(shown["photos"]) == len(shown["truth"]) == 2
    assert photo.parent.name == "JPEGImages"
    assert truth.parent.name == "SegmentationClass"
    assert photo.stem == truth.stem
    assert len(shown["classes"]) == len(shown["palette"]) == 21
