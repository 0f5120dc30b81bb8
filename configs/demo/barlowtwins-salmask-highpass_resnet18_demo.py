# mmpretrain's Barlow Twins on the images, views and schedule of mocov2_resnet18_demo.py.
_base_ = ['./mocov2_resnet18_demo.py', '../_base_/maskers/highpass.py']

model = dict(
    _delete_=True,
    type='BarlowTwins',
    data_preprocessor=dict(
        _base_.model.data_preprocessor,
        masker=dict(_base_.masker, localizer=_base_.boundary_prior, hard_negatives=0)),
    backbone=dict(type='ResNet', depth=18, zero_init_residual=True),
    neck=dict(
        type='NonLinearNeck',
        in_channels=512,
        hid_channels=512,
        out_channels=512,
        num_layers=3,
        with_last_bn=False,
        with_last_bn_affine=False,
        with_avg_pool=True,
        norm_cfg=dict(type='BN1d')),
    head=dict(
        type='LatentCrossCorrelationHead',
        in_channels=512,
        loss=dict(type='CrossCorrelationLoss')))

# Its loss is a sum over a matrix, and its gradients are as much larger.
optim_wrapper = dict(optimizer=dict(lr=0.01))
