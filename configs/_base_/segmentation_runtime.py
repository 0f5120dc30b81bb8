_base_ = 'mmseg::_base_/default_runtime.py'

custom_hooks = [dict(type='mmsalmask.ClassCheckHook')]
visualizer = dict(
    vis_backends=[dict(type='LocalVisBackend'),
                  dict(type='TensorboardVisBackend')])
randomness = dict(seed=0)
