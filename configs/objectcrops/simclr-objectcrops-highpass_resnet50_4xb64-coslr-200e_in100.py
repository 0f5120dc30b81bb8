_base_ = [
    '../simclr/simclr_resnet50_4xb64-coslr-200e_in100.py',
    '../_base_/maskers/objectcrops-highpass.py',
]

model = dict(data_preprocessor=dict(masker=dict(_base_.masker, localizer=_base_.resnet50)))
