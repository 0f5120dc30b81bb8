# KITTI's raw drives; --cfg-options data_root=/path/to/kitti_raw. Splits are computed; for the very
# images of the published tables give their lists as train_dataloader.dataset.split and
# test_dataloader.dataset.split.
data_root = 'data/kitti_raw'
scale = (640, 192)
train_pipeline = [
    dict(type='mmsalmask.LoadFrames'),
    dict(type='mmsalmask.ResizeFrames', scale=scale),
    dict(type='mmsalmask.FlipFrames', prob=0.5),
    dict(type='mmsalmask.JitterFrames', prob=0.5, strength=0.2, hue=0.1),
    dict(type='mmsalmask.PackFrames'),
]
test_pipeline = [
    dict(type='mmsalmask.LoadFrames'),
    dict(type='mmsalmask.ResizeFrames', scale=scale),
    dict(type='mmsalmask.LoadTrueDepth'),
    dict(type='mmsalmask.PackFrames'),
]
train_dataloader = dict(
    batch_size=12,
    num_workers=8,
    drop_last=True,
    pin_memory=True,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='mmsalmask.KITTIRawDepth',
        data_root=data_root,
        split='eigen_zhou',
        subset='train',
        pipeline=train_pipeline))
test_dataloader = dict(
    batch_size=12,
    num_workers=8,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='mmsalmask.KITTIRawDepth',
        data_root=data_root,
        split='eigen',
        subset='test',
        neighbours=False,
        ground_truth='velodyne',
        pipeline=test_pipeline))
test_evaluator = [dict(type='mmsalmask.DepthMetric')]
