# Small enough for two CPU cores: ResNet-18 at 64 px on images drawn by tools/demo.py, or on any
# folder of small photos with --cfg-options data_root=/path/to/images.
_base_ = [
    '../_base_/models/mocov2_resnet50.py',
    '../_base_/datasets/image_folder.py',
    '../_base_/default_runtime.py',
]

# A key in the queue is as old as its encoder was then. With the momentum and the few steps of a
# short run, a long queue or a large lr let the net tell new keys from old ones, not images.
model = dict(
    queue_len=512,
    momentum=0.99,
    data_preprocessor=dict(
        augment=dict(_base_.mocov2_augment, view=dict(_base_.mocov2_view, size=64))),
    backbone=dict(depth=18),
    neck=dict(in_channels=512, hid_channels=512))

data_root = 'data/demo/train'
train_dataloader = dict(
    batch_size=64,
    num_workers=2,
    pin_memory=False,
    dataset=dict(
        data_root=data_root,
        pipeline=[dict(type='mmsalmask.LoadWhole', size=96), _base_.device_pipeline[1]]))

# 0.015 for a batch of 128, as in configs/moco.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.0075, momentum=0.9, weight_decay=5e-4))
# To the last of train_cfg.max_epochs, which is mmengine's default end.
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12)

default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=2, max_keep_ckpts=2))
custom_hooks = [
    dict(type='mmsalmask.TrainingStatisticsHook', interval=10),
    dict(type='mmsalmask.MaskGalleryHook', interval=4),
    dict(type='mmsalmask.BrokenImagesHook', limit=0.01),
    dict(type='mmsalmask.NonFiniteHook', limit=10),
    dict(type='mmsalmask.CollapseHook', interval=10),
]
