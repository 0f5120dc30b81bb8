_base_ = ['../moco/mocov2_resnet50_4xb32-coslr-200e_in100.py', '../_base_/maskers/filtered.py']

model = dict(data_preprocessor=dict(masker=_base_.masker))
