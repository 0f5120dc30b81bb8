# The encoder is fine-tuned along.
_base_ = [
    '../_base_/models/monodepth2_resnet50.py',
    '../_base_/datasets/kitti_raw_depth.py',
    '../_base_/schedules/monodepth2_adam_20e.py',
    '../_base_/depth_runtime.py',
]

model = dict(freeze_encoder=False)
