_base_ = [
    '../_base_/models/fcn_r50-d8.py',
    '../_base_/datasets/cityscapes_769x769.py',
    'mmseg::_base_/schedules/schedule_40k.py',
    '../_base_/segmentation_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=(769, 769)),
    decode_head=dict(align_corners=True),
    auxiliary_head=dict(align_corners=True),
    test_cfg=dict(mode='slide', crop_size=(769, 769), stride=(513, 513)))
default_hooks = dict(
    checkpoint=dict(type='mmsalmask.SafeCheckpointHook', max_keep_ckpts=2))
