"""The way of a backbone: pretrained by tools/train.py, exported, fine-tuned by mmdet on VOC."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmsalmask.checkpoint import load_checkpoint
from mmsalmask.config import load_config
from mmsalmask.engine.launch import build_runner

ROOT = Path(__file__).resolve().parents[2]
PRETRAIN = ROOT / "configs" / "demo" / "mocov2-salmask-mean_resnet18_demo.py"

DETECTOR = """
_base_ = 'mmdet::_base_/models/faster-rcnn_r50-caffe-c4.py'
default_scope = 'mmdet'
norm = dict(type='BN', requires_grad=True)
start = dict(type='Pretrained', checkpoint=BACKBONE)
few = dict(nms_pre=32, max_per_img=32)
model = dict(
    backbone=dict(depth=18, style='pytorch', frozen_stages=-1, norm_eval=False, norm_cfg=norm,
                  init_cfg=start),
    rpn_head=dict(in_channels=256, feat_channels=64),
    roi_head=dict(
        shared_head=dict(depth=18, style='pytorch', norm_eval=False, norm_cfg=norm,
                         init_cfg=start),
        bbox_roi_extractor=dict(out_channels=256),
        bbox_head=dict(in_channels=512, num_classes=20)),
    train_cfg=dict(rpn_proposal=few, rcnn=dict(sampler=dict(num=16))))
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(128, 128), keep_ratio=True),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='VOCDataset',
        data_root=VOC,
        ann_file='VOC2007/ImageSets/Main/trainval.txt',
        data_prefix=dict(sub_data_root='VOC2007/'),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=pipeline))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.005, momentum=0.9))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=3)
default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
"""


def tool(name, *words):
    command = [sys.executable, str(ROOT / "tools" / name), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_an_exported_backbone_starts_faster_rcnn_c4_on_voc(tmp_path, photos):
    voc = photos("voc-mini") / "voc-mini" / "VOCdevkit"
    tool(
        "train.py",
        PRETRAIN,
        *("--work-dir", tmp_path / "pretrain"),
        "--cfg-options",
        f"data_root={voc / 'VOC2012' / 'JPEGImages'}",
        "train_cfg.max_epochs=1",
        "train_dataloader.batch_size=16",
        "train_dataloader.num_workers=0",
        "train_dataloader.persistent_workers=False",
    )
    exported = tmp_path / "backbone.pth"
    tool("export_backbone.py", tmp_path / "pretrain" / "epoch_1.pth", "-o", exported)
    trained = load_checkpoint(tmp_path / "pretrain" / "epoch_1.pth")["state_dict"]
    backbone = load_checkpoint(exported)["state_dict"]
    assert all(torch.equal(backbone[name], trained[f"backbone.{name}"]) for name in backbone)

    (tmp_path / "detector.py").write_text(
        f"BACKBONE = {str(exported)!r}\nVOC = {str(voc)!r}\n{DETECTOR}"
    )
    config = load_config(str(tmp_path / "detector.py"))
    config.work_dir = str(tmp_path / "detector")
    runner = build_runner(config)
    runner.model.init_weights()
    started = {
        **runner.model.backbone.state_dict(),
        **runner.model.roi_head.shared_head.state_dict(),
    }
    # Every key of the one is a key of the other: nothing missing, nothing unexpected. (A file of
    # torchvision's would have its classifier, fc, left over.)
    assert started.keys() == backbone.keys()
    assert all(torch.equal(started[name], backbone[name]) for name in started)
    runner.train()
    losses = runner.message_hub.get_scalar("train/loss").data[0]
    assert len(losses) == 3
    assert all(loss == loss and loss < 100 for loss in losses)
