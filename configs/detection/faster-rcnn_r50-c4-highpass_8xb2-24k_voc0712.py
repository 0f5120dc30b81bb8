_base_ = './faster-rcnn_r50-c4_8xb2-24k_voc0712.py'

train_dataloader = dict(dataset=dict(pipeline=_base_.highpass_train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=_base_.highpass_test_pipeline))
test_dataloader = val_dataloader
