# What `make demo` runs: a ResNet-18 of a quarter of its width, at 48 px, on the pictures that
# tools/demo.py draws. Their classes are shapes in any colour, so colours are jittered more than
# MoCo v2 does. The queue is far shorter than the set: in a queue as long as the set every picture
# would meet its own last key as a negative.
_base_ = './mocov2-salmask-mean_resnet18_demo.py'

model = dict(
    queue_len=256,
    backbone=dict(base_channels=16, stem_channels=16),
    neck=dict(in_channels=128, hid_channels=128))

data_root = 'data/demo'
view_pipeline = [
    dict(
        type='mmsalmask.RandomResizedCrop',
        scale=48,
        crop_ratio_range=(0.3, 1.),
        backend='pillow'),
    dict(
        type='RandomApply',
        transforms=[
            dict(
                type='ColorJitter',
                brightness=0.4,
                contrast=0.4,
                saturation=0.4,
                hue=0.5)
        ],
        prob=0.8),
    dict(
        type='RandomGrayscale',
        prob=0.5,
        keep_channels=True,
        channel_weights=(0.114, 0.587, 0.2989)),
    dict(type='RandomFlip', prob=0.5),
]
train_pipeline = [
    dict(type='mmsalmask.LoadImage'),
    dict(
        type='mmsalmask.MultiView',
        num_views=2,
        transforms=[view_pipeline]),
    dict(type='mmsalmask.PackInputs'),
]
train_dataloader = dict(
    dataset=dict(data_root=data_root + '/train', pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=0.06))
train_cfg = dict(max_epochs=24)

# The labels of the drawn pictures serve this figure alone.
labelled = dict(type='mmsalmask.ImageFolder', with_label=True)
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='mmsalmask.KNNHook',
        train=dict(data_root=data_root + '/train', **labelled),
        test=dict(data_root=data_root + '/test', **labelled),
        interval=6,
        size=48,
        metric=dict(type='mmsalmask.KNNMetric', k=20)),
]
