# Views made on the device, for any dataset and algorithm: workers only decode, each image is copied
# to the device once, and mmsalmask.DeviceAugmentation makes the views there. A recipe sets both:
#   model = dict(data_preprocessor=dict(augment=_base_.mocov2_augment))
#   train_dataloader = dict(dataset=dict(pipeline=_base_.device_pipeline))
# Where the views are not of 224 px: mmsalmask.LoadWhole takes 1.3 to 1.5 times their size.
device_pipeline = [dict(type='mmsalmask.LoadWhole', size=288), dict(type='mmsalmask.PackWhole')]

# The distributions of mocov2_views.py (Chen et al. 2020).
mocov2_view = dict(
    type='mmsalmask.RandomView',
    size=224,
    crop_area=(0.2, 1.),
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    jitter_prob=0.8,
    grey_prob=0.2,
    blur_sigma=(0.1, 2.0),
    blur_prob=0.5,
    flip_prob=0.5)
mocov2_augment = dict(type='mmsalmask.DeviceAugmentation', view=mocov2_view)

# The distributions of simclr_views.py (Chen et al. 2020).
simclr_augment = dict(
    type='mmsalmask.DeviceAugmentation',
    view=dict(
        mocov2_view, crop_area=(0.08, 1.), brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2))

# The distributions of mmpretrain's BYOL and Barlow Twins, whose two views differ; MoCo v3 crops
# from 20 % of the image on: crop_area=(0.2, 1.).
byol_view = dict(mocov2_view, crop_area=(0.08, 1.), saturation=0.2, blur_prob=1.)
byol_augment = dict(
    type='mmsalmask.DeviceAugmentation',
    view=byol_view,
    key=dict(byol_view, blur_prob=0.1, solarize_prob=0.2))
