# SimCLR in the size of mocov2_resnet18_demo.py, on the same images, under its own augmentation.
_base_ = './mocov2_resnet18_demo.py'

model = dict(
    _delete_=True,
    type='mmsalmask.MaskedSimCLR',
    data_preprocessor=dict(
        _base_.model.data_preprocessor,
        augment=dict(_base_.simclr_augment, view=dict(_base_.simclr_augment.view, size=64))),
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
