# Two views of each image under MoCo v2's augmentation (Chen et al. 2020), at 224 px, made by the
# workers as in mmpretrain. The recipes make theirs on the device; one that takes these instead has
# this file as a second base and sets:
#   model = dict(data_preprocessor=dict(augment=None))
#   train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline))
# Images stay BGR and uint8 until the preprocessor, so each view is copied to the device once, as
# bytes. mmsalmask's crop, views and packing are mmpretrain's, and record where each view was cut
# from.
view_pipeline = [
    dict(
        type='mmsalmask.RandomResizedCrop',
        scale=224,
        crop_ratio_range=(0.2, 1.),
        backend='pillow'),
    dict(
        type='RandomApply',
        transforms=[
            dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
        ],
        prob=0.8),
    dict(
        type='RandomGrayscale',
        prob=0.2,
        keep_channels=True,
        channel_weights=(0.114, 0.587, 0.2989)),
    dict(type='GaussianBlur', magnitude_range=(0.1, 2.0), magnitude_std='inf', prob=0.5),
    dict(type='RandomFlip', prob=0.5),
]
train_pipeline = [
    dict(type='mmsalmask.LoadImage'),
    dict(type='mmsalmask.MultiView', num_views=2, transforms=[view_pipeline]),
    dict(type='mmsalmask.PackInputs'),
]
