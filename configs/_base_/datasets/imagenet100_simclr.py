_base_ = './simclr_views.py'

# An ordinary ImageNet folder, train/<wnid>/*.JPEG; the 100 classes are picked from it in place.
data_root = 'data/imagenet'
train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    drop_last=True,
    pin_memory=True,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='mmsalmask.ImageNet100',
        data_root=data_root,
        split='train',
        pipeline=_base_.train_pipeline))
