_base_ = [
    '../_base_/models/simclr_resnet50.py',
    '../_base_/datasets/image_folder_simclr.py',
    '../_base_/schedules/simclr_lars_coslr_200e.py',
    '../_base_/default_runtime.py',
]
