# As many images as in the 1x schedule, in batches of half the size.
_base_ = './mask-rcnn_r50-c4_8xb2-1x_coco.py'

train_dataloader = dict(batch_size=1)
optim_wrapper = dict(optimizer=dict(lr=0.01))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=2000),
    dict(type='MultiStepLR', by_epoch=False, milestones=[120000, 160000], gamma=0.1),
]
train_cfg = dict(max_iters=180000, val_interval=60000)
