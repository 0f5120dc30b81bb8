"""C4 detectors: how they start, what is trained, and that the kernels under them are right."""

import sys
from pathlib import Path

import pytest
import torch

import mmsalmask  # noqa: F401  serves mmcv's operators where they are not compiled

pytest.importorskip("mmdet")
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from mmpretrain.models import ResNet
from references import greedy_nms, loop_roi_align

from mmsalmask.checkpoint import save_backbone
from mmsalmask.config import check_config, load_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "detection"
RECIPES = sorted(CONFIGS.glob("*.py"))
MASK_RCNN = CONFIGS / "mask-rcnn_r50-c4_8xb2-1x_coco.py"
FASTER_RCNN = CONFIGS / "faster-rcnn_r50-c4_8xb2-24k_voc0712.py"
# A recipe on a ResNet-18.
SMALL = {
    "model.backbone.depth": 18,
    "model.rpn_head.in_channels": 256,
    "model.rpn_head.feat_channels": 16,
    "model.roi_head.shared_head.depth": 18,
    "model.roi_head.bbox_roi_extractor.out_channels": 256,
    "model.roi_head.bbox_head.in_channels": 512,
    "model.train_cfg.rpn_proposal.nms_pre": 32,
    "model.train_cfg.rpn_proposal.max_per_img": 16,
    "model.train_cfg.rcnn.sampler.num": 4,
}
SMALL_MASK = {
    **SMALL,
    "model.roi_head.mask_head.in_channels": 512,
    "model.roi_head.mask_head.conv_out_channels": 8,
}


def detector(recipe: Path, **options):
    config = load_config(
        str(recipe), {**(SMALL_MASK if "mask" in recipe.name else SMALL), **options}
    )
    check_config(config)
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(config.model)


def plain_norms(**options):
    """Options for one process on a CPU: the runner makes BatchNorm of SyncBN."""
    return {f"model.{part}.norm_cfg.type": "BN" for part in ("backbone", "roi_head.shared_head")}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_every_recipe_is_what_moco_fine_tunes(recipe):
    config = load_config(str(recipe))
    check_config(config)
    batch = config.train_dataloader.batch_size * int(recipe.stem.split("_")[2].split("xb")[0])
    assert config.optim_wrapper.optimizer.lr / batch == 0.02 / 16
    images = {"24k": 24_000 * 16, "1x": 90_000 * 16, "180k": 90_000 * 16}
    schedule = recipe.stem.split("_")[2].partition("-")[2]
    assert config.train_cfg.max_iters * batch == images[schedule]
    assert config.param_scheduler[1].milestones[-1] < config.train_cfg.max_iters
    assert config.model.backbone.norm_cfg == config.model.roi_head.shared_head.norm_cfg
    assert config.model.backbone.style == config.model.roi_head.shared_head.get("style", "pytorch")
    (precise,) = (hook for hook in config.custom_hooks if hook.type == "mmsalmask.PreciseBNHook")
    assert precise.iterations == 200
    one_process = "-bn_1x" in recipe.stem
    assert config.model.backbone.norm_cfg.type == ("BN" if one_process else "SyncBN")
    coco = "coco" in recipe.stem
    assert config.model.roi_head.bbox_head.num_classes == (80 if coco else 20)
    sides = [side for _, side in _transform(config.train_dataloader, "RandomChoiceResize").scales]
    assert sides == list(range(640 if coco else 480, 801, 32))
    assert _transform(config.test_dataloader, "Resize").scale == (1333, 800)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_the_filter_is_in_all_pipelines_or_in_none_and_the_last_to_touch_the_image(recipe):
    config = load_config(str(recipe))
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        kinds = [transform.type for transform in config[loader].dataset.pipeline]
        filtered = kinds[-2:] == ["mmsalmask.HighPassFilter", "PackDetInputs"]
        assert filtered == ("-highpass_" in recipe.stem)
        assert kinds.count("mmsalmask.HighPassFilter") == filtered


def _transform(loader, kind: str):
    (found,) = (each for each in loader.dataset.pipeline if each.type == kind)
    return found


@pytest.mark.parametrize("recipe", [FASTER_RCNN, MASK_RCNN], ids=lambda recipe: recipe.stem)
def test_one_option_starts_backbone_and_shared_head_bit_for_bit(tmp_path, recipe):
    torch.manual_seed(0)
    start = tmp_path / "exported.pth"
    pretrained = ResNet(18)
    for tensor in pretrained.state_dict().values():
        tensor.copy_(torch.rand_like(tensor.double()) * 100)
    save_backbone(pretrained.state_dict(), start, "openmmlab", {})
    model = detector(recipe, **{"model.backbone.init_cfg.checkpoint": str(start)})
    model.init_weights()
    started = {**model.backbone.state_dict(), **model.roi_head.shared_head.state_dict()}
    wanted = pretrained.state_dict()
    added = {f"norm.{name}" for name in model.roi_head.shared_head.norm.state_dict()}
    assert started.keys() == wanted.keys() | added
    assert all(torch.equal(started[name], wanted[name]) for name in wanted)
    norm = model.roi_head.shared_head.norm
    assert (norm.weight == 1).all()
    assert (norm.bias == 0).all()


def test_a_shared_head_with_a_start_of_its_own_keeps_it(tmp_path):
    paths = [tmp_path / "first.pth", tmp_path / "second.pth"]
    for value, path in enumerate(paths):
        state = ResNet(18).state_dict()
        save_backbone(
            {k: torch.full_like(v, value) for k, v in state.items()}, path, "openmmlab", {}
        )
    own = {"type": "Pretrained", "checkpoint": str(paths[1])}
    model = detector(
        FASTER_RCNN,
        **{
            "model.backbone.init_cfg.checkpoint": str(paths[0]),
            "model.roi_head.shared_head.init_cfg": own,
        },
    )
    model.init_weights()
    assert (model.backbone.layer3[0].conv1.weight == 0).all()
    assert (model.roi_head.shared_head.layer4[0].conv1.weight == 1).all()


def test_every_layer_is_trained_and_every_norm_with_the_batchs_statistics():
    model = detector(MASK_RCNN, **{"model.backbone.init_cfg": None, **plain_norms()}).train()
    assert all(parameter.requires_grad for parameter in model.parameters())
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == len(list(filter(lambda m: "bn" in m[0], ResNet(18).named_modules()))) + 4
    assert all(norm.training for norm in norms)
    assert model.eval().roi_head.shared_head.training is False


def test_the_shared_head_ends_in_a_norm():
    torch.manual_seed(0)
    model = detector(FASTER_RCNN, **{"model.backbone.init_cfg": None, **plain_norms()})
    head = model.roi_head.shared_head.train()
    with torch.no_grad():
        features = head(torch.rand(6, 256, 14, 14))
    assert features.shape == (6, 512, 7, 7)
    per_channel = features.transpose(0, 1).flatten(1)
    torch.testing.assert_close(per_channel.mean(1), torch.zeros(512), atol=1e-5, rtol=0)
    torch.testing.assert_close(per_channel.var(1, correction=0), torch.ones(512), atol=1e-2, rtol=0)


# ------------------------------------------------------------------------------------ kernels


def batch() -> dict:
    """Two images of noise, three objects each, with masks."""
    samples = []
    for _ in range(2):
        corner = torch.rand(3, 2) * 30
        boxes = torch.cat((corner, corner + 15 + torch.rand(3, 2) * 15), dim=1)
        masks = torch.zeros(3, 64, 64)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = 1
        sample = DetDataSample(metainfo={"img_shape": (64, 64), "scale_factor": (1.0, 1.0)})
        sample.gt_instances = InstanceData(
            bboxes=boxes,
            labels=torch.randint(80, (3,)),
            masks=BitmapMasks(masks.byte().numpy(), 64, 64),
        )
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
        samples.append({"inputs": torch.randint(256, (3, 64, 64)).byte(), "data_samples": sample})
    return pseudo_collate(samples)


def slow_nms(boxes, scores, iou_threshold, offset):
    slow_nms.calls += 1
    return torch.tensor(greedy_nms(boxes, scores, iou_threshold, offset), dtype=torch.long)


def slow_roi_align(features, rois, size, scale, sampling_ratio, pool_mode, aligned):
    slow_roi_align.calls += 1
    return loop_roi_align(features, rois, size, scale, sampling_ratio, aligned)


def step(model, data) -> tuple[dict, dict]:
    torch.manual_seed(1)  # of the sampling of anchors and RoIs
    model.zero_grad()
    losses = model(**model.data_preprocessor(data, training=True), mode="loss")
    total, parts = model.parse_losses(losses)
    total.backward()
    return parts, {name: p.grad.clone() for name, p in model.named_parameters()}


def test_a_training_step_is_that_of_slow_nms_and_roi_align(monkeypatch):
    torch.manual_seed(0)
    model = detector(MASK_RCNN, **{"model.backbone.init_cfg": None, **plain_norms()})
    model.init_weights()
    model.train().double()
    data = batch()
    fast, fast_grads = step(model, data)
    monkeypatch.setattr(sys.modules["mmcv.ops.nms"].ext_module, "nms", slow_nms)
    monkeypatch.setattr(sys.modules["mmcv.ops.roi_align"], "roi_align", slow_roi_align)
    slow_nms.calls = slow_roi_align.calls = 0
    slow, slow_grads = step(model, data)
    assert slow_nms.calls
    assert slow_roi_align.calls
    assert fast.keys() == slow.keys() >= {"loss", "loss_bbox", "loss_cls", "loss_mask"}
    for name in fast:
        torch.testing.assert_close(fast[name], slow[name])
    for name in fast_grads:
        torch.testing.assert_close(fast_grads[name], slow_grads[name])
