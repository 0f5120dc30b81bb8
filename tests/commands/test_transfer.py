"""Backbones on their way into detectors and segmentors, by tools/train.py and tools/test.py."""

import re
from pathlib import Path

import pytest

import mmsalmask  # noqa: F401  serves mmcv's operators where they are not compiled

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")
from mmpretrain.models import ResNet, ResNetV1c
from running import Outcome, run_tool

from mmsalmask.checkpoint import load_checkpoint, save_backbone
from mmsalmask.config import check_config, load_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
VOC = "detection/faster-rcnn_r50-c4_8xb2-24k_voc0712.py"
COCO = "detection/mask-rcnn_r50-c4_8xb2-1x_coco.py"
FCN = "segmentation/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py"
HIGH_PASS_VOC = "detection/faster-rcnn_r50-c4-highpass_8xb2-24k_voc0712.py"
HIGH_PASS_FCN = "segmentation/fcn_r50-d8-highpass_4xb4-20k_voc12aug-512x512.py"

# The recipes on a ResNet-18, with images of 64 px, for three iterations and four images' test.
SHORT = {"train_cfg.max_iters": 3, "train_cfg.val_interval": 3}
SHORT |= {"default_hooks.logger.interval": 1, "default_hooks.checkpoint.interval": 3}
for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
    SHORT |= {f"{loader}.num_workers": 0, f"{loader}.persistent_workers": False}
for loader in ("val_dataloader", "test_dataloader"):
    SHORT |= {f"{loader}.dataset.pipeline.1.scale": "(64,64)", f"{loader}.dataset.indices": 4}
C4 = {
    "model.backbone.depth": 18,
    "model.rpn_head.in_channels": 256,
    "model.rpn_head.feat_channels": 16,
    "model.roi_head.shared_head.depth": 18,
    "model.roi_head.bbox_roi_extractor.out_channels": 256,
    "model.roi_head.bbox_head.in_channels": 512,
    "model.train_cfg.rpn_proposal.max_per_img": 16,
    "model.train_cfg.rcnn.sampler.num": 4,
    "model.test_cfg.rpn.max_per_img": 4,
    "model.test_cfg.rcnn.score_thr": 0.0,  # else nothing is found so early
}
SMALL = {
    VOC: {**C4, "train_dataloader.dataset.pipeline.0.scales": "[(64,64)]"},
    COCO: {
        **C4,
        "model.roi_head.mask_head.in_channels": 512,
        "train_dataloader.dataset.pipeline.2.scales": "[(64,64)]",
    },
    FCN: {
        "model.backbone.depth": 18,
        "model.decode_head.in_channels": 512,
        "model.decode_head.channels": 16,
        "model.auxiliary_head.in_channels": 256,
        "model.auxiliary_head.channels": 8,
        "model.data_preprocessor.size": "(64,64)",
        "train_dataloader.dataset.pipeline.0.scale": "(128,64)",
        "train_dataloader.dataset.pipeline.1.crop_size": "(64,64)",
        "train_dataloader.dataset.pipeline.4.size": "(64,64)",
    },
}
SMALL[HIGH_PASS_VOC] = SMALL[VOC]
SMALL[HIGH_PASS_FCN] = {
    key.replace("pipeline.4.size", "pipeline.5.size"): value for key, value in SMALL[FCN].items()
}
START = "model.backbone.init_cfg.checkpoint"


@pytest.fixture(scope="module")
def starts(tmp_path_factory) -> dict[str, Path]:
    """Exported backbones, of other architectures, too."""
    folder = tmp_path_factory.mktemp("starts")
    nets = {
        "plain": ResNet(18),
        "filtered": ResNet(18),
        "deeper": ResNet(34),
        "deep_stem": ResNetV1c(depth=18),
    }
    for name, net in nets.items():
        facts = {"mmsalmask_version": "0", "high_pass": str(name == "filtered").lower()}
        save_backbone(net.state_dict(), folder / f"{name}.pth", "openmmlab", facts)
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture
def roots(photos) -> dict[str, Path]:
    """Where the photos of each recipe lie."""
    voc = photos("voc-mini") / "voc-mini" / "VOCdevkit"
    coco = photos("coco-mini") / "coco-mini"
    segmentation = voc / "VOC2012"
    return dict(zip(SMALL, (voc, coco, segmentation, voc, segmentation), strict=True))


def tool(script: str, recipe: str, work: Path, options: dict, *words: str) -> Outcome:
    return run_tool(
        *(script, str(CONFIGS / recipe), *words, "--work-dir", str(work), "--cfg-options"),
        *(f"{key}={value}" for key, value in options.items()),
    )


def train(recipe: str, work: Path, root: Path, start: Path, **more) -> Outcome:
    options = {**SHORT, **SMALL[recipe], "data_root": root, START: start, **more}
    return tool("train.py", recipe, work, options)


def log(work: Path) -> str:
    (file,) = work.glob("*/*.log")
    return file.read_text()


@pytest.mark.parametrize(
    ("recipe", "start", "figure"),
    [
        (HIGH_PASS_VOC, "filtered", "coco_style/AP"),
        (COCO, "plain", "coco/segm_mAP_50"),
        (HIGH_PASS_FCN, "filtered", "mIoU"),
    ],
)
def test_a_recipe_trains_all_of_a_backbone(tmp_path, roots, starts, recipe, start, figure):
    outcome = train(recipe, tmp_path, roots[recipe], starts[start])
    assert (outcome.status, outcome.errors) == (0, []), outcome.err
    told = log(tmp_path)
    losses = [float(loss) for loss in re.findall(r"Iter\(train\).* loss: (\S+)", told)]
    assert len(losses) == 3
    assert all(0 < loss < 100 for loss in losses)
    assert f"  {figure}: " in told
    assert " LEARNED FROM " not in told
    state = load_checkpoint(tmp_path / "iter_3.pth")["state_dict"]
    begun = load_checkpoint(starts[start])["state_dict"]
    last = "backbone" if "segmentation" in recipe else "roi_head.shared_head"
    for name, owner in (("conv1.weight", "backbone"), ("layer4.1.conv2.weight", last)):
        moved = (state[f"{owner}.{name}"] - begun[name]).abs()
        assert 0 < moved.mean() < 0.1 * begun[name].abs().mean()

    if recipe != HIGH_PASS_VOC:
        return
    options = {**SHORT, **SMALL[recipe], "data_root": roots[recipe], START: "no/such/file.pth"}
    options["train_dataloader.dataset.dataset.datasets.0.data_root"] = "no/such/folder"
    tested = tool("test.py", recipe, tmp_path / "test", options, str(tmp_path / "iter_3.pth"))
    assert (tested.status, tested.errors) == (0, []), "training's data and start are not needed"
    figures = [re.findall(r"coco_style/AP: (\S+)", each) for each in (told, log(tmp_path / "test"))]
    assert figures[0] == figures[1] != []


@pytest.mark.parametrize("recipe", sorted(CONFIGS.glob("segmentation/*.py")), ids=lambda r: r.stem)
def test_segmentors_see_filtered_images_in_all_pipelines_or_in_none(recipe):
    config = load_config(str(recipe))
    check_config(config)
    filtered = ["mmsalmask.HighPassFilter"] if "-highpass_" in recipe.stem else []
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        kinds = [transform.type for transform in config[loader].dataset.pipeline]
        # Behind all that expects colours, before the padding, whose border would be an edge.
        changes = ["PhotoMetricDistortion"] if loader == "train_dataloader" else ["LoadAnnotations"]
        padding = ["Pad"] if loader == "train_dataloader" and "voc12aug" in recipe.stem else []
        end = [*changes, *filtered, *padding, "PackSegInputs"]
        assert kinds[-len(end) :] == end
        assert kinds.count("mmsalmask.HighPassFilter") == len(filtered)


OTHER = r"\S+\.pth is a checkpoint of another architecture than this ResNet"
# Recipe, backbone, further options, and how the sentence begins.
MISTAKES = {
    "root of voc": (
        VOC,
        "plain",
        {"data_root": "no/such"},
        r"train_\S+\.0\.data_root: there is no",
    ),
    "root of coco": (
        COCO,
        "plain",
        {"data_root": "no/such"},
        r"train_\S+t\.data_root: there is no ",
    ),
    "root of fcn": (
        FCN,
        "plain",
        {"data_root": "no/such"},
        r"train_\S+\.0\.data_root: there is no",
    ),
    "root of another set": (
        COCO,
        "plain",
        {"data_root": "{voc}"},
        r"train_dataloader\.dataset\.ann_file: there is no \S+train2017\.json; \S+ holds VOC2007, ",
    ),
    "no such annotations": (
        COCO,
        "plain",
        {"train_dataloader.dataset.ann_file": "annotations/train.json"},
        r"train_\S+\.ann_file: there is no \S+/train\.json; \S+ holds instances_train2017\.json, ",
    ),
    "no truth to test on": (
        COCO,
        "plain",
        {"val_evaluator.ann_file": "no.json"},
        r"val_evaluator\.ann_file: there is no no\.json; ",
    ),
    "no such list of images": (
        FCN,
        "plain",
        {"val_dataloader.dataset.ann_file": "ImageSets/Segmentation/no.txt"},
        r"val_dataloader\.dataset\.ann_file: there is no \S+/no\.txt; \S+ holds aug\.txt, train",
    ),
    "classes of a detector": (
        VOC,
        "filtered",
        {"model.roi_head.bbox_head.num_classes": 80},
        r"model\.roi_head\.bbox_head\.num_classes is 80, but the data has 20 classes: set model\.",
    ),
    "classes of a segmentor": (
        HIGH_PASS_FCN,
        "plain",
        {"model.decode_head.num_classes": 20},
        r"model\.decode_head\.num_classes is 20, but the data has 21 classes: set model\.",
    ),
    "names that the file has not": (
        COCO,
        "plain",
        {"train_dataloader.dataset.metainfo.classes": "('dog','unicorn')"},
        r"\S+/instances_train2017\.json has 1 of the 2 classes: set dataset\.metainfo\.classes",
    ),
    "names that no image shows": (
        VOC,
        "plain",
        {"train_dataloader.dataset.dataset.datasets.1.metainfo.classes": "('unicorn',)"},
        r"\S+/trainval\.txt names no image that shows any of the 1 classes: set dataset\.meta",
    ),
    "deeper backbone": (VOC, "deeper", {}, OTHER + r" and Res5WithNorm: \d+ unexpected "),
    "deep stem": (FCN, "deep_stem", {}, OTHER + r": \d+ missing \(conv1\.weight, .* unexpected "),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_sentence(tmp_path, roots, starts, mistake):
    recipe, start, options, sentence = MISTAKES[mistake]
    if "data_root" in options:
        options = {"data_root": options["data_root"].format(voc=roots[VOC])}
    outcome = train(recipe, tmp_path, roots[recipe], starts[start], **options)
    assert re.match(sentence, outcome.sentence()), outcome.sentence()
    assert not list(tmp_path.glob("*.pth"))
    if "classes of" in mistake:
        # The recipe for filtered images was given a backbone that learned from plain ones, or the
        # reverse.
        assert log(tmp_path).count(" LEARNED FROM ") == 1
