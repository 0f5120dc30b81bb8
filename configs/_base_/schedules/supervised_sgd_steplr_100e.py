# lr 0.1 for a batch of 256; set lr = 0.1 * batch / 256 for another one, it is not rescaled.
# Chin et al. 2024 give optimizer, lr, batch and steps; momentum and weight decay are the usual ones
# of ResNet-50 on ImageNet (He et al. 2016).
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4))
param_scheduler = [
    dict(type='StepLR', step_size=30, gamma=0.1, by_epoch=True)
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=100, val_interval=1)
val_cfg = dict()
test_cfg = dict()
