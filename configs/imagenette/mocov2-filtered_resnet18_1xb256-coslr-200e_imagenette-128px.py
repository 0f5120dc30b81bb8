_base_ = [
    './mocov2_resnet18_1xb256-coslr-200e_imagenette-128px.py',
    '../_base_/maskers/filtered.py',
]

model = dict(data_preprocessor=dict(masker=_base_.masker))
