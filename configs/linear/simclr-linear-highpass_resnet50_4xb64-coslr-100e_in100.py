_base_ = './simclr-linear_resnet50_4xb64-coslr-100e_in100.py'

train_dataloader = dict(dataset=dict(pipeline=_base_.highpass_train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=_base_.highpass_test_pipeline))
test_dataloader = val_dataloader
