# Small enough for two CPU cores, without any download: a ResNet-18 from scratch at 128x64 on drives
# drawn by `python -m mmsalmask.depth.rendered_sequence data/rendered`. Not the paper's setting:
# the encoder is trained, and the learning rate is larger, because nothing is pretrained.
_base_ = [
    '../_base_/models/monodepth2_resnet50.py',
    '../_base_/datasets/kitti_raw_depth.py',
    '../_base_/schedules/monodepth2_adam_20e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    freeze_encoder=False,
    encoder=dict(
        depth=18, stem_channels=32, base_channels=32, init_cfg=None),
    pose=dict(
        encoder=dict(init_cfg=None, stem_channels=32, base_channels=32)))

data_root = 'data/rendered'
scale = (128, 64)
train_pipeline = [
    dict(type='mmsalmask.LoadFrames'),
    dict(type='mmsalmask.ResizeFrames', scale=scale),
    dict(type='mmsalmask.FlipFrames', prob=0.5),
    dict(type='mmsalmask.PackFrames'),
]
test_pipeline = [
    dict(type='mmsalmask.LoadFrames'),
    dict(type='mmsalmask.ResizeFrames', scale=scale),
    dict(type='mmsalmask.LoadTrueDepth'),
    dict(type='mmsalmask.PackFrames'),
]
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

epochs = 20
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [
    dict(type='MultiStepLR', milestones=[15], gamma=0.1, by_epoch=True)
]
train_cfg = dict(max_epochs=epochs)
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=5, max_keep_ckpts=2))
custom_hooks = [dict(type='mmsalmask.BrokenImagesHook', limit=0.01)]
