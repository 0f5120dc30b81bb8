_base_ = './simclr_resnet18_demo.py'

model = dict(
    type='mmsalmask.ADIOSSimCLR',
    mask_net=dict(type='mmsalmask.MaskUNet', size=64, slots=4),
    penalty_weight=0.1)

optim_wrapper = dict(
    constructor='mmsalmask.algorithms.adios.ADIOSOptimWrapperConstructor',
    paramwise_cfg=dict(
        mask_net=dict(
            optimizer=dict(
                type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4))))
model_wrapper_cfg = dict(
    type='MMSeparateDistributedDataParallel',
    broadcast_buffers=False,
    device_ids=None)

custom_hooks = [
    dict(type='mmsalmask.TrainingStatisticsHook', interval=10),
    dict(type='mmsalmask.SlotGalleryHook', interval=4),
    dict(type='mmsalmask.BrokenImagesHook', limit=0.01),
    dict(type='mmsalmask.NonFiniteHook', limit=10),
    dict(type='mmsalmask.CollapseHook', interval=10),
]
