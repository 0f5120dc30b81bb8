# lr 0.3 for a batch of 256; set lr = 0.3 * batch / 256 for another one, it is not rescaled.
# Chin et al. 2024 give optimizer, lr, batch and cosine; momentum, weight decay, what LARS leaves
# out and ten epochs of warm-up are SimCLR's own (Chen et al. 2020), as mmpretrain has them.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='LARS', lr=0.3, momentum=0.9, weight_decay=1e-6),
    paramwise_cfg=dict(
        custom_keys={
            'bn': dict(decay_mult=0, lars_exclude=True),
            'bias': dict(decay_mult=0, lars_exclude=True),
            # BatchNorm of a residual block's shortcut
            'downsample.1': dict(decay_mult=0, lars_exclude=True),
        }))
# To the last of train_cfg.max_epochs, which is mmengine's default end.
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-4,
        by_epoch=True,
        begin=0,
        end=10,
        convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=10)
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=200)
