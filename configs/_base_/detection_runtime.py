_base_ = 'mmdet::_base_/default_runtime.py'

default_hooks = dict(
    checkpoint=dict(
        type='mmsalmask.SafeCheckpointHook',
        by_epoch=False,
        interval=2000,
        max_keep_ckpts=2))
custom_hooks = [
    dict(type='mmsalmask.ClassCheckHook'),
    # As in MoCo's detectors: detectron2's TEST.PRECISE_BN.
    dict(type='mmsalmask.PreciseBNHook', iterations=200),
]
visualizer = dict(
    vis_backends=[dict(type='LocalVisBackend'),
                  dict(type='TensorboardVisBackend')])
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
