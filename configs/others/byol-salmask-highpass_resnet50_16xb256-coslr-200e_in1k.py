# mmpretrain's recipe of BYOL, with the masker in its data preprocessor: the query is view 1.
_base_ = 'mmpretrain::byol/byol_resnet50_16xb256-coslr-200e_in1k.py'

data_preprocessor = dict(
    type='mmsalmask.MaskingDataPreprocessor',
    masker=dict(
        type='mmsalmask.SaliencyMasker',
        strategy=dict(type='mmsalmask.HighPassNoise'),
        localizer=dict(
            type='mmsalmask.BackboneSaliency',
            backbone=dict(type='ResNet', depth=50),
            checkpoint='torchvision://resnet50.imagenet1k_v2'),
        hard_negatives=0))

custom_hooks = [
    dict(type='mmsalmask.TrainingStatisticsHook', interval=100),
    # Pictures of views, saliency and masks, under work_dir/masks.
    dict(type='mmsalmask.MaskGalleryHook', interval=10),
]
