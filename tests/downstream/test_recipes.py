"""Downstream recipes follow the backbone, and small ones keep what makes them what they are."""

from functools import partial
from pathlib import Path

import pytest
import torch

import mmsalmask  # noqa: F401  serves mmcv's operators where they are not compiled

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.models import ResNet, ResNetV1c

from mmsalmask.checkpoint import save_backbone
from mmsalmask.config import load_config
from mmsalmask.downstream.tasks import (
    SMALL_BATCH,
    SMALL_ITERATIONS,
    count_images,
    downstream_config,
    image_paths,
    keep_predictions,
    resnet_depth,
    segmentation_truth,
)
from mmsalmask.errors import InputError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
VOC = CONFIGS / "detection" / "faster-rcnn_r50-c4-highpass_8xb2-24k_voc0712.py"
COCO = CONFIGS / "detection" / "mask-rcnn_r50-c4_8xb1-180k_coco.py"
FCN = CONFIGS / "segmentation" / "fcn_r50-d8_4xb4-20k_voc12aug-512x512.py"
CITYSCAPES = CONFIGS / "segmentation" / "fcn_r50-d8-highpass_4xb2-40k_cityscapes-769x769.py"
LINEAR = CONFIGS / "linear" / "mocov2-linear_resnet50_4xb64-steplr-100e_in100.py"


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
    ("recipe", "depth"),
    [(VOC, 50), (COCO, 18), (FCN, 18), (CITYSCAPES, 50)],
    ids=["voc", "coco", "fcn", "cityscapes"],
)
def test_a_small_recipe_trains_a_backbone_of_any_depth(tmp_path, recipe, depth):
    start = tmp_path / "backbone.pth"
    pretrained = ResNet(depth).state_dict()
    save_backbone(pretrained, start, "openmmlab", {})
    config = downstream_config(recipe, start, depth, {"data_root": "my/data"}, 16, small=True)
    assert config.train_dataloader.batch_size == SMALL_BATCH
    rate = load_config(str(recipe)).optim_wrapper.optimizer.lr
    assert config.optim_wrapper.optimizer.lr == rate * SMALL_BATCH / 16, "by the batch"
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


def test_a_full_recipe_is_left_as_it_is_but_for_the_backbone_and_one_process():
    recipe = load_config(str(COCO))
    config = downstream_config(COCO, "b.pth", 50, {"data_root": recipe.data_root}, 8, seed=3)
    changed = {
        "randomness": {"seed": 3},
        "model": {**recipe.model, "backbone": {**recipe.model.backbone}},
        "train_dataloader": {
            **recipe.train_dataloader,
            "batch_size": 8,
            "num_workers": config.train_dataloader.num_workers,
        },
    }
    changed["model"]["backbone"]["init_cfg"] = dict(type="Pretrained", checkpoint="b.pth")
    for key in recipe:
        assert config[key] == changed.get(key, recipe[key]), key
    assert config.train_dataloader.num_workers >= 1


def test_the_linear_head_has_the_width_of_the_features_and_no_small_recipe():
    config = downstream_config(LINEAR, "b.pth", 34, {"data_root": "in"}, 256)
    assert config.model.head.in_channels == 512
    assert config.train_dataloader.batch_size == 256
    assert config.test_dataloader.dataset.data_root == "in"
    with pytest.raises(InputError, match=r"tools/linear\.py is the quick way"):
        downstream_config(LINEAR, "b.pth", 34, {"data_root": "in"}, 256, small=True)


def test_predictions_are_kept_where_each_metric_can():
    voc = downstream_config(VOC, "b.pth", 18, {}, 16)
    keep_predictions(voc, Path("found"))
    assert voc.test_evaluator[0].outfile_prefix == "found/found"
    fcn = downstream_config(FCN, "b.pth", 18, {}, 16)
    keep_predictions(fcn, Path("found"))
    assert fcn.test_evaluator.output_dir == "found"


def test_images_are_counted_and_those_on_both_sides_told(photos):
    voc = photos("voc-mini") / "voc-mini" / "VOCdevkit"
    config = downstream_config(VOC, "b.pth", 18, {"data_root": str(voc)}, 16, small=True)
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

    fcn = {"data_root": str(voc / "VOC2012")}
    config = downstream_config(FCN, "b.pth", 18, fcn, 16, small=True)
    shown = segmentation_truth(config, 2)
    photo, truth = (Path(shown[key][1]) for key in ("photos", "truth"))
    assert len(shown["photos"]) == len(shown["truth"]) == 2
    assert photo.parent.name == "JPEGImages"
    assert truth.parent.name == "SegmentationClass"
    assert photo.stem == truth.stem
    assert len(shown["classes"]) == len(shown["palette"]) == 21
