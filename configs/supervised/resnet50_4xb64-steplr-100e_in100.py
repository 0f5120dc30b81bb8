_base_ = [
    '../_base_/models/supervised_resnet50.py',
    '../_base_/datasets/imagenet100_supervised.py',
    '../_base_/schedules/supervised_sgd_steplr_100e.py',
    '../_base_/default_runtime.py',
]

# Nothing is masked here: neither mask ratios nor pictures of masks.
custom_hooks = [
    dict(type='mmsalmask.TrainingStatisticsHook', interval=50),
    dict(type='mmsalmask.BrokenImagesHook', limit=0.01),
    dict(type='mmsalmask.NonFiniteHook', limit=10),
]
