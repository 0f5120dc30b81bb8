_base_ = ['../simclr/simclr_resnet50_1xb256-coslr-200e_folder.py', '../_base_/maskers/filtered.py']

model = dict(data_preprocessor=dict(masker=_base_.masker))
