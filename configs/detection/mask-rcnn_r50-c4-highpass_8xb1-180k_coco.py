_base_ = './mask-rcnn_r50-c4_8xb1-180k_coco.py'

train_dataloader = dict(dataset=dict(pipeline=_base_.highpass_train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=_base_.highpass_test_pipeline))
test_dataloader = val_dataloader
