_base_ = [
    '../simclr/simclr_resnet50_1xb256-coslr-200e_folder.py',
    '../_base_/maskers/objectcrops-highpass.py',
]

model = dict(data_preprocessor=dict(masker=dict(_base_.masker, localizer=_base_.boundary_prior)))
