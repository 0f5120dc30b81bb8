# mocov2-salmask-highpass_resnet50_1xb128-coslr-200e_folder.py with its views made on the device that trains.
_base_ = [
    './mocov2-salmask-highpass_resnet50_1xb128-coslr-200e_folder.py',
    '../_base_/datasets/device_views.py',
]

model = dict(data_preprocessor=dict(augment=_base_.mocov2_augment))
train_dataloader = dict(dataset=dict(pipeline=_base_.device_pipeline))
