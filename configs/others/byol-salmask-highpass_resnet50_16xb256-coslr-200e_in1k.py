# mmpretrain's recipe of BYOL, with the masker in its data preprocessor: the query is view 1.
_base_ = [
    'mmpretrain::byol/byol_resnet50_16xb256-coslr-200e_in1k.py',
    '../_base_/datasets/device_views.py',
    '../_base_/maskers/highpass.py',
]

data_preprocessor = dict(
    type='mmsalmask.MaskingDataPreprocessor',
    augment=_base_.byol_augment,
    masker=dict(_base_.masker, localizer=_base_.resnet50, hard_negatives=0))
train_dataloader = dict(dataset=dict(pipeline=_base_.device_pipeline))
custom_hooks = [
    dict(type='mmsalmask.TrainingStatisticsHook', interval=100),
    # Pictures of views, saliency and masks, under work_dir/masks.
    dict(type='mmsalmask.MaskGalleryHook', interval=10),
]
