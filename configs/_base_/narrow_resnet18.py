# A ResNet-18 of 16 channels for runs of minutes, and a neck that spreads the embeddings of a new net
# within them: BatchNorm in the neck, and residual branches that start at zero.
narrow = dict(
    backbone=dict(base_channels=16, stem_channels=16, zero_init_residual=True),
    neck=dict(
        _delete_=True,
        type='NonLinearNeck',
        in_channels=128,
        hid_channels=128,
        out_channels=128,
        num_layers=2,
        with_bias=False,
        with_avg_pool=True,
        with_last_bn_affine=False,
        norm_cfg=dict(type='BN1d')))
