# ConvNeXt-T instead of ResNet-18. It keeps its feature maps (mmpretrain pools them by default), as
# kNN, localizers and detectors expect; its usual optimizer is AdamW.
_base_ = './mocov2-salmask-mean_resnet18_demo.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='ConvNeXt',
        arch='tiny',
        gap_before_final_norm=False),
    neck=dict(in_channels=768, hid_channels=768))

optim_wrapper = dict(
    optimizer=dict(
        _delete_=True, type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.))
