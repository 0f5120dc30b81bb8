# The paper's Table 3: a frozen encoder, 640x192.
_base_ = [
    '../_base_/models/monodepth2_resnet50.py',
    '../_base_/datasets/kitti_raw_depth.py',
    '../_base_/schedules/monodepth2_adam_20e.py',
    '../_base_/default_runtime.py',
]

default_hooks = dict(checkpoint=dict(interval=5))
custom_hooks = [
    dict(type='mmsalmask.BrokenImagesHook', limit=0.01),
    dict(type='mmsalmask.FrozenCheckHook', modules=['encoder']),
]
