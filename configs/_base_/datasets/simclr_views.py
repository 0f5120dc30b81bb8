# As mocov2_views.py under SimCLR's augmentation (Chen et al. 2020): crops from 8 % of the image on,
# jitter of strength 1.
_base_ = './mocov2_views.py'

view_pipeline = [
    dict(_base_.view_pipeline[0], crop_ratio_range=(0.08, 1.)),
    dict(
        type='RandomApply',
        transforms=[
            dict(type='ColorJitter', brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)
        ],
        prob=0.8),
    *_base_.view_pipeline[2:],
]
train_pipeline = [
    _base_.train_pipeline[0],
    dict(type='mmsalmask.MultiView', num_views=2, transforms=[view_pipeline]),
    _base_.train_pipeline[2],
]
