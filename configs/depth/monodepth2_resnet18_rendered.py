# Small enough for two CPU cores, without any download: a ResNet-18 from scratch at 128x64 on drives
# drawn by `python -m mmsalmask.depth.rendered_sequence data/rendered`. Not the paper's setting:
# the encoder is trained, and the learning rate is larger, because nothing is pretrained.
_base_ = [
    '../_base_/models/monodepth2_resnet50.py',
    '../_base_/datasets/kitti_raw_depth.py',
    '../_base_/schedules/monodepth2_adam_20e.py',
    '../_base_/depth_runtime.py',
]

model = dict(
    freeze_encoder=False,
    encoder=dict(depth=18, stem_channels=32, base_channels=32, init_cfg=None),
    pose=dict(encoder=dict(init_cfg=None, stem_channels=32, base_channels=32)))

data_root = 'data/rendered'
resize = dict(type='mmsalmask.ResizeFrames', scale=(128, 64))
load, _, flip, _, pack = _base_.train_pipeline  # without jitter
train_pipeline = [load, resize, flip, pack]
test_pipeline = [load, resize, *_base_.test_pipeline[2:]]
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    pin_memory=False,
    dataset=dict(
        data_root=data_root, split='train_files.txt', pipeline=train_pipeline))
test_dataloader = dict(
    batch_size=8,
    num_workers=1,
    pin_memory=False,
    dataset=dict(
        data_root=data_root,
        split='test_files.txt',
        neighbours=True,
        with_motion=True,
        ground_truth='prepared',
        pipeline=test_pipeline))
test_evaluator = [
    dict(type='mmsalmask.DepthMetric'),
    dict(type='mmsalmask.TranslationMetric'),
]

optim_wrapper = dict(optimizer=dict(lr=5e-4))
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=2))
