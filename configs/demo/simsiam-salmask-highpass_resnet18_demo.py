# mmpretrain's SimSiam on the images, views and schedule of mocov2_resnet18_demo.py; as in its own
# recipe, the predictor's lr stays where it starts.
_base_ = ['./mocov2_resnet18_demo.py', '../_base_/maskers/highpass.py']

model = dict(
    _delete_=True,
    type='SimSiam',
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
        with_last_bn_affine=False,
        with_avg_pool=True,
        norm_cfg=dict(type='BN1d')),
    head=dict(
        type='LatentPredictHead',
        predictor=dict(
            type='NonLinearNeck',
            in_channels=512,
            hid_channels=128,
            out_channels=512,
            with_avg_pool=False,
            with_last_bn=False,
            with_last_bias=True,
            norm_cfg=dict(type='BN1d')),
        loss=dict(type='CosineSimilarityLoss')))

lr = 0.05
optim_wrapper = dict(
    optimizer=dict(lr=lr),
    paramwise_cfg=dict(custom_keys={'predictor': dict(fix_lr=True)}))
custom_hooks = [
    dict(type='SimSiamHook', priority='HIGH', fix_pred_lr=True, lr=lr),
    *_base_.custom_hooks,
]
