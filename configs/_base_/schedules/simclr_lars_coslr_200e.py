# lr 0.3 for a batch of 256; set lr = 0.3 * batch / 256 for another one, it is not rescaled.
# Chin et al. 2024 give optimizer, lr, batch and cosine; momentum, weight decay and what LARS leaves
# out are SimCLR's own (Chen et al. 2020). No warm-up: they name none, and lr 0.3 needs none.
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
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=True)]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=200)
