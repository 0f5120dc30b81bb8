_base_ = [
    './simclr_resnet18-w16_1xb128-coslr-50e_imagenette-64px.py',
    '../_base_/maskers/objectcrops-highpass.py',
]

model = dict(data_preprocessor=dict(masker=dict(_base_.masker, localizer=_base_.boundary_prior)))
