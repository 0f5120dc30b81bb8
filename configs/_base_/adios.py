# What ADIOS (Shi et al. 2022) adds to the recipe of its algorithm, with as many slots as Chin et
# al. 2024 time. The encoder's optimizer stays; the mask net's lr falls by the same schedule.
mask_net = dict(type='mmsalmask.MaskUNet', size=224, slots=6)
mask_net_optimizer = dict(type='SGD', lr=0.015, momentum=0.9, weight_decay=1e-4)
two_optimizers = dict(
    constructor='mmsalmask.ADIOSOptimWrapperConstructor',
    paramwise_cfg=dict(mask_net=dict(optimizer=mask_net_optimizer)))
# Encoder and mask net take turns, so each has a wrapper of its own.
model_wrapper_cfg = dict(
    type='MMSeparateDistributedDataParallel', broadcast_buffers=False, device_ids=None)
# Pictures of views and slots, under work_dir/masks.
slot_gallery = dict(type='mmsalmask.SlotGalleryHook', interval=10)
