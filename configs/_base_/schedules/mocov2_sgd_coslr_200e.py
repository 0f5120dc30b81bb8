# lr 0.015 for a batch of 128; set lr = 0.015 * batch / 128 for another one, it is not rescaled.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.015, momentum=0.9, weight_decay=1e-4))
# To the last of train_cfg.max_epochs, which is mmengine's default end.
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=True)]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=200)
