# What `make demo` runs: a narrow ResNet-18 at 48 px on the pictures that tools/demo.py draws, whose
# classes are shapes and patterns in any colour. So colours are jittered more than MoCo v2 does, and
# the queue is shorter than the set, or every picture would meet its own last key as a negative.
_base_ = './mocov2-salmask-blur_resnet18_demo.py'

model = dict(
    queue_len=512,
    backbone=dict(base_channels=32, stem_channels=32),
    neck=dict(in_channels=256, hid_channels=256))

epochs = 12
view_pipeline = [
    dict(type='RandomResizedCrop', scale=48, crop_ratio_range=(0.2, 1.)),
    dict(
        type='RandomApply',
        transforms=[
            dict(
                type='ColorJitter',
                brightness=0.4,
                contrast=0.4,
                saturation=0.4,
                hue=0.3)
        ],
        prob=0.8),
    dict(
        type='RandomGrayscale',
        prob=0.4,
        keep_channels=True,
        channel_weights=(0.114, 0.587, 0.2989)),
    dict(type='RandomFlip', prob=0.5),
]
train_pipeline = [
    dict(type='mmsalmask.LoadImage'),
    dict(type='MultiView', num_views=2, transforms=[view_pipeline]),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, end=30),
    dict(
        type='CosineAnnealingLR',
        T_max=epochs,
        by_epoch=True,
        end=epochs,
        convert_to_iter_based=True)
]
train_cfg = dict(max_epochs=epochs)
