_base_ = './default_runtime.py'

custom_hooks = [
    dict(type='mmsalmask.TrainingStatisticsHook', interval=50),
    dict(type='mmsalmask.BrokenImagesHook', limit=0.01),
    dict(type='mmsalmask.NonFiniteHook', limit=10),
    dict(type='mmsalmask.ClassCheckHook'),
    # Stops if a weight or a running statistic of the backbone changed.
    dict(type='mmsalmask.FrozenCheckHook', modules=['backbone']),
]
