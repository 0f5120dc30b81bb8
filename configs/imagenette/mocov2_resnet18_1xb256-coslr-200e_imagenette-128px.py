# The recipe that lightly publishes for Imagenette (kNN 78.6 after 200 epochs, its figure): symmetric
# loss, BatchNorm as it is, crops from 8 % of the photo on. For one GPU, with --amp bfloat16.
_base_ = './mocov2_resnet18-w16_1xb128-coslr-50e_imagenette-64px.py'

model = dict(
    symmetric=True,
    data_preprocessor=dict(augment=dict(view=dict(size=128, crop_area=(0.08, 1.)))),
    backbone=dict(base_channels=64, stem_channels=64, zero_init_residual=False),
    neck=dict(
        _delete_=True,
        type='MoCoV2Neck',
        in_channels=512,
        hid_channels=2048,
        out_channels=128,
        with_avg_pool=True),
    head=dict(temperature=0.1))

train_dataloader = dict(
    batch_size=256,
    dataset=dict(
        dataset=dict(
            pipeline=[dict(type='mmsalmask.LoadWhole', size=144), _base_.device_pipeline[1]])))
optim_wrapper = dict(optimizer=dict(lr=0.06))
train_cfg = dict(max_epochs=200)
custom_hooks = [
    *_base_.custom_hooks[:-1],
    dict(
        _base_.custom_hooks[-1],
        interval=40,
        size=128,
        metric=dict(type='mmsalmask.KNNMetric', k=200, temperature=0.1)),
]
