_base_ = ['./mocov2_resnet18_demo.py', '../_base_/maskers/filtered.py']

model = dict(data_preprocessor=dict(masker=_base_.masker))
