# A frozen encoder that was pretrained on high-pass filtered images (high-pass strategy, MSCN).
_base_ = [
    '../_base_/models/monodepth2_resnet50.py',
    '../_base_/datasets/kitti_raw_depth.py',
    '../_base_/schedules/monodepth2_adam_20e.py',
    '../_base_/default_runtime.py',
]

scale = (640, 192)
train_pipeline = [
    dict(type='mmsalmask.LoadFrames'),
    dict(type='mmsalmask.ResizeFrames', scale=scale),
    dict(type='mmsalmask.FlipFrames', prob=0.5),
    dict(type='mmsalmask.JitterFrames', prob=0.5, strength=0.2, hue=0.1),
    # After the jitter: x - G*x of the encoder's view alone, as in its pretraining.
    dict(type='mmsalmask.HighPassFilter', kernel_size=11, sigma=5.0),
    dict(type='mmsalmask.PackFrames'),
]
test_pipeline = [
    dict(type='mmsalmask.LoadFrames'),
    dict(type='mmsalmask.ResizeFrames', scale=scale),
    dict(type='mmsalmask.LoadTrueDepth'),
    dict(type='mmsalmask.HighPassFilter', kernel_size=11, sigma=5.0),
    dict(type='mmsalmask.PackFrames'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

default_hooks = dict(checkpoint=dict(interval=5))
custom_hooks = [
    dict(type='mmsalmask.BrokenImagesHook', limit=0.01),
    dict(type='mmsalmask.FrozenCheckHook', modules=['encoder']),
]
