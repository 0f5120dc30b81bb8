# mmpretrain's BYOL on the images and schedule of mocov2_resnet18_demo.py, with its own two views,
# of which one is always blurred and the other sometimes solarized.
_base_ = ['./mocov2_resnet18_demo.py', '../_base_/maskers/highpass.py']

model = dict(
    _delete_=True,
    type='BYOL',
    base_momentum=0.01,
    data_preprocessor=dict(
        _base_.model.data_preprocessor,
        augment=dict(
            _base_.byol_augment,
            view=dict(_base_.byol_augment.view, size=64),
            key=dict(_base_.byol_augment.key, size=64)),
        masker=dict(_base_.masker, localizer=_base_.boundary_prior, hard_negatives=0)),
    backbone=dict(type='ResNet', depth=18),
    neck=dict(
        type='NonLinearNeck',
        in_channels=512,
        hid_channels=512,
        out_channels=128,
        num_layers=2,
        with_bias=True,
        with_last_bn=False,
        with_avg_pool=True,
        norm_cfg=dict(type='BN1d')),
    head=dict(
        type='LatentPredictHead',
        predictor=dict(
            type='NonLinearNeck',
            in_channels=128,
            hid_channels=512,
            out_channels=128,
            num_layers=2,
            with_bias=True,
            with_last_bn=False,
            with_avg_pool=False,
            norm_cfg=dict(type='BN1d')),
        loss=dict(type='CosineSimilarityLoss')))
optim_wrapper = dict(optimizer=dict(lr=0.06))
