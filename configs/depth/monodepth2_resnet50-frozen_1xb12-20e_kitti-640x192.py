# A frozen encoder at 640x192, the paper's Table 3.
_base_ = './monodepth2_resnet50_1xb12-20e_kitti-640x192.py'

model = dict(freeze_encoder=True)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='mmsalmask.FrozenCheckHook', modules=['encoder']),
]
