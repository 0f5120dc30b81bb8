_base_ = [
    '../_base_/models/mocov2_resnet50.py',
    '../_base_/datasets/image_folder_mocov2.py',
    '../_base_/schedules/mocov2_sgd_coslr_200e.py',
    '../_base_/default_runtime.py',
]
