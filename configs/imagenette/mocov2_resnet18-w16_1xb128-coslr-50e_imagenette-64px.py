# Plain MoCo v2 for two CPU cores or a corner of a GPU: a ResNet-18 of a quarter of its width, at 64
# px. The small scale of benchmarks/study.py. data_root holds train/<class>/ and val/<class>/.
_base_ = ['../demo/mocov2_resnet18_demo.py', '../_base_/narrow_resnet18.py']

model = dict(
    queue_len=4096,
    backbone=_base_.narrow.backbone,
    neck=_base_.narrow.neck)

data_root = 'data/imagenette'
train_dataloader = dict(
    batch_size=128,
    num_workers=1,
    dataset=dict(
        _delete_=True,
        type='mmsalmask.InMemory',
        resident=True,
        dataset=dict(
            type='mmsalmask.ImageFolder',
            data_root=data_root + '/train',
            pipeline=[dict(type='mmsalmask.LoadWhole', size=85), _base_.device_pipeline[1]])))
optim_wrapper = dict(optimizer=dict(lr=0.15))
train_cfg = dict(max_epochs=50)

labelled = dict(type='mmsalmask.ImageFolder', with_label=True)
default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=1))
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='mmsalmask.ResidentImagesHook'),
    dict(
        type='mmsalmask.KNNHook',
        train=dict(data_root=data_root + '/train', **labelled),
        test=dict(data_root=data_root + '/val', **labelled),
        interval=10,
        size=64,
        metric=dict(type='mmsalmask.KNNMetric', k=20)),
]
