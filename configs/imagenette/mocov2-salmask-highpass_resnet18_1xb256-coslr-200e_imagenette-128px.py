_base_ = [
    './mocov2_resnet18_1xb256-coslr-200e_imagenette-128px.py',
    '../_base_/maskers/highpass.py',
]

model = dict(
    data_preprocessor=dict(masker=dict(_base_.masker, localizer=_base_.boundary_prior)),
    # With 2.0, hard negatives outweigh the queue at this temperature (docs/masks.md).
    head=dict(penalty=0.8))
