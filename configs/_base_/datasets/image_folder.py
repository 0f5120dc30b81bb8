_base_ = './device_views.py'

# Any folder: every image below it, no labels. --cfg-options data_root=/path/to/images
data_root = 'data/images'
train_dataloader = dict(
    num_workers=8,
    drop_last=True,
    pin_memory=True,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='mmsalmask.ImageFolder', data_root=data_root, pipeline=_base_.device_pipeline))
