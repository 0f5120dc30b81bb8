_base_ = [
    '../_base_/models/mocov2_resnet50.py',
    '../_base_/datasets/image_folder.py',
    '../_base_/schedules/mocov2_sgd_coslr_200e.py',
    '../_base_/default_runtime.py',
]

model = dict(data_preprocessor=dict(augment=_base_.mocov2_augment))
train_dataloader = dict(batch_size=128)
