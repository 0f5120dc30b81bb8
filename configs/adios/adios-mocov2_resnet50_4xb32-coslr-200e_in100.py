_base_ = '../moco/mocov2_resnet50_4xb32-coslr-200e_in100.py'

# ADIOS (Shi et al. 2022) with as many slots as Chin et al. 2024 time.
model = dict(
    type='mmsalmask.ADIOSMoCo',
    mask_net=dict(type='mmsalmask.MaskUNet', size=224, slots=6),
    penalty_weight=1.0)

# The encoder's optimizer is that of MoCo v2; the mask net's lr falls by the same schedule.
optim_wrapper = dict(
    constructor='mmsalmask.algorithms.adios.ADIOSOptimWrapperConstructor',
    paramwise_cfg=dict(
        mask_net=dict(
            optimizer=dict(
                type='SGD', lr=0.015, momentum=0.9, weight_decay=1e-4))))
# Encoder and mask net take turns, so each has a wrapper of its own.
model_wrapper_cfg = dict(
    type='MMSeparateDistributedDataParallel',
    broadcast_buffers=False,
    device_ids=None)

custom_hooks = [
    dict(type='mmsalmask.TrainingStatisticsHook', interval=50),
    # Pictures of views and slots, under work_dir/masks.
    dict(type='mmsalmask.SlotGalleryHook', interval=10),
    dict(type='mmsalmask.BrokenImagesHook', limit=0.01),
    dict(type='mmsalmask.NonFiniteHook', limit=10),
    dict(type='mmsalmask.CollapseHook', interval=50),
]
