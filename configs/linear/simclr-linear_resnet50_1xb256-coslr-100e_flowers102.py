_base_ = [
    '../_base_/models/linear_resnet50.py',
    '../_base_/datasets/flowers102_linear.py',
    '../_base_/schedules/linear_sgd_coslr_100e.py',
    '../_base_/linear_runtime.py',
]

model = dict(head=dict(num_classes=102))
