# SimCLR in the size of mocov2_resnet18_demo.py, on the same images and views.
_base_ = './mocov2_resnet18_demo.py'

model = dict(
    _delete_=True,
    type='mmsalmask.MaskedSimCLR',
    data_preprocessor=dict(
        type='mmsalmask.MaskingDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True),
    backbone=dict(type='ResNet', depth=18, zero_init_residual=True),
    neck=dict(
        type='NonLinearNeck',
        in_channels=512,
        hid_channels=512,
        out_channels=128,
        num_layers=2,
        norm_cfg=dict(type='BN1d')),
    head=dict(type='mmsalmask.NTXentHead', temperature=0.1))
optim_wrapper = dict(optimizer=dict(lr=0.06))
