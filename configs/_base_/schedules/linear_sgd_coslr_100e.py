# For SimCLR's backbones: lr 1.0 for a batch of 256, it is not rescaled. Chin et al. 2024 give
# batch, lr and cosine; momentum and weight decay are those of MoCo's linear evaluation.
_base_ = './linear_sgd_steplr_100e.py'

optim_wrapper = dict(optimizer=dict(lr=1.0))
# To the last of train_cfg.max_epochs, which is mmengine's default end.
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=True)]
