_base_ = './simclr_resnet50_4xb64-coslr-200e_in100.py'

model = dict(
    data_preprocessor=dict(
        masker=dict(
            type='mmsalmask.SaliencyMasker',
            strategy=dict(type='mmsalmask.StrongBlur'),
            localizer=dict(
                type='mmsalmask.BackboneSaliency',
                backbone=dict(type='ResNet', depth=50),
                checkpoint='torchvision://resnet50.imagenet1k_v2'))))
