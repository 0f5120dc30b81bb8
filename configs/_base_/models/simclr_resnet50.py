# SimCLR (Chen et al. 2020); constants of Chin et al. 2024. Without a masker: plain SimCLR.
# BatchNorm's statistics are those of the joined batch: with each process's own, views would betray
# their process, and the gradient would not be the joined batch's. SyncBN runs on GPUs; a single
# process needs none of it and trains on anything.
norm_cfg = dict(type='SyncBN')
model = dict(
    type='mmsalmask.MaskedSimCLR',
    data_preprocessor=dict(
        type='mmsalmask.MaskingDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True),
    backbone=dict(
        type='ResNet', depth=50, norm_cfg=norm_cfg, zero_init_residual=True),
    neck=dict(
        type='NonLinearNeck',
        in_channels=2048,
        hid_channels=2048,
        out_channels=128,
        num_layers=2,
        with_avg_pool=True,
        norm_cfg=norm_cfg),
    # Where there are hard negatives, their penalty is 2.0: model.head.penalty
    head=dict(type='mmsalmask.NTXentHead', temperature=0.1))
