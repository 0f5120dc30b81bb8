_base_ = './mocov2-salmask-highpass_resnet18-w16_1xb128-coslr-50e_imagenette-64px.py'

model = dict(data_preprocessor=dict(masker=dict(hard_negatives=0)))
