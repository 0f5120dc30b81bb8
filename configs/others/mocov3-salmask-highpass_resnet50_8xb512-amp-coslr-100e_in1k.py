# mmpretrain's recipe of MoCo v3, with the masker in its data preprocessor: the query is view 1.
_base_ = 'mmpretrain::mocov3/mocov3_resnet50_8xb512-amp-coslr-100e_in1k.py'

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
