# MoCo v2 (Chen et al. 2020); constants of Chin et al. 2024. Without a masker: plain MoCo v2.
model = dict(
    type='mmsalmask.MaskedMoCo',
    queue_len=65536,
    feat_dim=128,
    momentum=0.999,
    data_preprocessor=dict(
        type='mmsalmask.MaskingDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True),
    backbone=dict(
        type='ResNet',
        depth=50,
        norm_cfg=dict(type='BN'),
        zero_init_residual=False),
    neck=dict(
        type='MoCoV2Neck',
        in_channels=2048,
        hid_channels=2048,
        out_channels=128,
        with_avg_pool=True),
    # Where there are hard negatives, their penalty is 2.0: model.head.penalty
    head=dict(
        type='mmsalmask.HardNegativeContrastiveHead', temperature=0.2))
