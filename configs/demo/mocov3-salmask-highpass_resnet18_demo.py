# mmpretrain's MoCo v3 on the images, views and schedule of mocov2_resnet18_demo.py.
_base_ = ['./mocov2_resnet18_demo.py', '../_base_/maskers/highpass.py']

model = dict(
    _delete_=True,
    type='MoCoV3',
    base_momentum=0.01,
    data_preprocessor=dict(
        _base_.model.data_preprocessor,
        masker=dict(_base_.masker, localizer=_base_.boundary_prior, hard_negatives=0)),
    backbone=dict(type='ResNet', depth=18),
    neck=dict(
        type='NonLinearNeck',
        in_channels=512,
        hid_channels=512,
        out_channels=128,
        num_layers=2,
        with_bias=False,
        with_last_bn=True,
        with_last_bn_affine=False,
        with_last_bias=False,
        with_avg_pool=True,
        norm_cfg=dict(type='BN1d')),
    head=dict(
        type='MoCoV3Head',
        predictor=dict(
            type='NonLinearNeck',
            in_channels=128,
            hid_channels=512,
            out_channels=128,
            num_layers=2,
            with_bias=False,
            with_last_bn=False,
            with_last_bn_affine=False,
            with_last_bias=False,
            with_avg_pool=False,
            norm_cfg=dict(type='BN1d')),
        loss=dict(type='CrossEntropyLoss', loss_weight=2.0),
        temperature=1.0))
optim_wrapper = dict(optimizer=dict(lr=0.06))
