_base_ = [
    '../_base_/models/fcn_r50-d8.py',
    '../_base_/datasets/voc12aug_segmentation.py',
    'mmseg::_base_/schedules/schedule_20k.py',
    '../_base_/segmentation_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    decode_head=dict(num_classes=21),
    auxiliary_head=dict(num_classes=21))
default_hooks = dict(
    checkpoint=dict(type='mmsalmask.SafeCheckpointHook', max_keep_ckpts=2))
