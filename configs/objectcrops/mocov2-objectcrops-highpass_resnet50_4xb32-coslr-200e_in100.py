_base_ = [
    '../moco/mocov2_resnet50_4xb32-coslr-200e_in100.py',
    '../_base_/maskers/objectcrops-highpass.py',
]

model = dict(data_preprocessor=dict(masker=dict(_base_.masker, localizer=_base_.resnet50)))
