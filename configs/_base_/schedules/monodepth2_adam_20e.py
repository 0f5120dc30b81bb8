# lr 1e-4 for a batch of 12, a tenth of it after 15 of 20 epochs.
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-4))
param_scheduler = [
    dict(type='MultiStepLR', milestones=[15], gamma=0.1, by_epoch=True)
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=20)
test_cfg = dict()
