# SimCLR at the size of mocov2_resnet18-w16, with its crops, temperature and optimizer, under SimCLR's
# own jitter and blur.
_base_ = './mocov2_resnet18-w16_1xb128-coslr-50e_imagenette-64px.py'

model = dict(
    _delete_=True,
    type='mmsalmask.MaskedSimCLR',
    data_preprocessor=dict(
        _base_.model.data_preprocessor,
        augment=dict(
            _base_.simclr_augment,
            view=dict(
                _base_.simclr_augment.view,
                size=64,
                crop_area=_base_.model.data_preprocessor.augment.view.crop_area))),
    backbone=dict(_base_.narrow.backbone, type='ResNet', depth=18),
    neck=_base_.model.neck,
    head=dict(type='mmsalmask.NTXentHead', temperature=_base_.model.head.temperature))
