_base_ = [
    '../_base_/models/simclr_resnet50.py',
    '../_base_/datasets/image_folder.py',
    '../_base_/schedules/simclr_lars_coslr_200e.py',
    '../_base_/default_runtime.py',
]

model = dict(data_preprocessor=dict(augment=_base_.simclr_augment))
train_dataloader = dict(batch_size=256)
