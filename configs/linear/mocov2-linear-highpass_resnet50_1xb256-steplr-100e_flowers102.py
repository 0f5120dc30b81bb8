_base_ = './mocov2-linear_resnet50_1xb256-steplr-100e_flowers102.py'

train_dataloader = dict(dataset=dict(pipeline=_base_.highpass_train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=_base_.highpass_test_pipeline))
test_dataloader = val_dataloader
