"""Mask R-CNN C4 trained and run on the stand-in operators, on two real photos."""

import pytest
import torch

import mmsalmask  # noqa: F401  serves mmcv's operators where they are not compiled

pytest.importorskip("mmdet")
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope

CONFIG = """
_base_ = "mmdet::_base_/models/mask-rcnn_r50-caffe-c4.py"
norm = dict(type="BN", requires_grad=True)
few = dict(nms_pre=32, max_per_img=32)
model = dict(
    backbone=dict(depth=18, frozen_stages=-1, norm_eval=False, norm_cfg=norm, init_cfg=None),
    rpn_head=dict(in_channels=256, feat_channels=64),
    roi_head=dict(
        shared_head=dict(depth=18, norm_eval=False, norm_cfg=norm),
        bbox_roi_extractor=dict(out_channels=256),
        bbox_head=dict(in_channels=512),
        mask_head=dict(in_channels=512, conv_out_channels=32),
    ),
    train_cfg=dict(rpn_proposal=few, rcnn=dict(sampler=dict(num=16))),
    test_cfg=dict(rpn=few, rcnn=dict(score_thr=0.0, max_per_img=10)),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="Resize", scale=(128, 128), keep_ratio=True),
    dict(type="PackDetInputs"),
]
dataset = dict(
    type="CocoDataset",
    ann_file="annotations/instances_train2017.json",
    data_prefix=dict(img="train2017/"),
    filter_cfg=dict(filter_empty_gt=True, min_size=32),
    indices=2,
    pipeline=train_pipeline,
)
"""


def test_mask_rcnn_c4_learns_two_photos_and_finds_instances(tmp_path, photos):
    (tmp_path / "c4.py").write_text(CONFIG)
    config = Config.fromfile(tmp_path / "c4.py")
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet"):
        folder = photos("coco-mini") / "coco-mini"
        dataset = DATASETS.build({**config.dataset, "data_root": str(folder)})
        model = MODELS.build(config.model)
        model.init_weights()
        batch = pseudo_collate([dataset[0], dataset[1]])
        assert all(len(sample.gt_instances) for sample in batch["data_samples"])

        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        wrapper = OptimWrapper(optimizer, clip_grad={"max_norm": 10.0})
        kernels = [p for p in model.backbone.parameters() if p.dim() == 4]
        before = [kernel.detach().clone() for kernel in kernels]
        losses = [model.train_step(batch, wrapper) for _ in range(6)]

        model.eval()
        with torch.no_grad():
            found = model.test_step(batch)

    assert {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss_mask"} <= set(losses[0])
    assert all(value.isfinite().all() for step in losses for value in step.values())
    totals = [step["loss"].item() for step in losses]
    assert sum(totals[-2:]) < 0.8 * sum(totals[:2]), totals
    assert not any(map(torch.equal, kernels, before))
    for sample in found:
        instances = sample.pred_instances
        assert 1 <= len(instances) <= 10
        assert instances.bboxes.isfinite().all()
        assert instances.masks.shape[1:] == sample.ori_shape
