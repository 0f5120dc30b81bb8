_base_ = ['./simclr_resnet18_demo.py', '../_base_/maskers/objectcrops-highpass.py']

model = dict(data_preprocessor=dict(masker=dict(_base_.masker, localizer=_base_.boundary_prior)))
