# ResNet-18, fine-tuned along, 640x192: the usual Monodepth2.
_base_ = [
    '../_base_/models/monodepth2_resnet50.py',
    '../_base_/datasets/kitti_raw_depth.py',
    '../_base_/schedules/monodepth2_adam_20e.py',
    '../_base_/default_runtime.py',
]

model = dict(freeze_encoder=False,
    encoder=dict(
        depth=18,
        init_cfg=dict(
            type='Pretrained', checkpoint='torchvision://resnet18')))

default_hooks = dict(checkpoint=dict(interval=5))
custom_hooks = [dict(type='mmsalmask.BrokenImagesHook', limit=0.01)]
