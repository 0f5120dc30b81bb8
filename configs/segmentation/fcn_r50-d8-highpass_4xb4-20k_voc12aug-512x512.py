_base_ = './fcn_r50-d8_4xb4-20k_voc12aug-512x512.py'

train_dataloader = dict(dataset=dict(pipeline=_base_.highpass_train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=_base_.highpass_test_pipeline))
test_dataloader = val_dataloader
