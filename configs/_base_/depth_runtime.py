_base_ = './default_runtime.py'

default_hooks = dict(checkpoint=dict(interval=5))
custom_hooks = [dict(type='mmsalmask.BrokenImagesHook', limit=0.01)]
