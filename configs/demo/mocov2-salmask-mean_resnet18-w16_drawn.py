# What `make demo` runs: a ResNet-18 of a quarter of its width, at 48 px, on the pictures that
# tools/demo.py draws, held in memory. Their classes are shapes in any colour, so colours are jittered
# more than MoCo v2 does. The queue is far shorter than the set: in a queue as long as the set every
# picture would meet its own last key as a negative. With MoCo v2's neck and lr 0.06 the loss rose while
# the lr fell.
_base_ = ['./mocov2-salmask-mean_resnet18-inmemory_demo.py', '../_base_/narrow_resnet18.py']

model = dict(
    queue_len=256,
    backbone=_base_.narrow.backbone,
    neck=_base_.narrow.neck,
    data_preprocessor=dict(
        augment=dict(
            view=dict(
                size=48,
                crop_area=(0.3, 1.),
                hue=0.5,
                grey_prob=0.5,
                blur_prob=0.))))

data_root = 'data/demo'
train_dataloader = dict(
    batch_size=32,
    dataset=dict(
        dataset=dict(
            data_root=data_root + '/train',
            pipeline=[
                dict(type='mmsalmask.LoadWhole', size=64),
                _base_.device_pipeline[1],
            ])))
optim_wrapper = dict(optimizer=dict(lr=0.03))
train_cfg = dict(max_epochs=36)

# The labels of the drawn pictures serve this figure alone.
labelled = dict(type='mmsalmask.ImageFolder', with_label=True)
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='mmsalmask.KNNHook',
        train=dict(data_root=data_root + '/train', **labelled),
        test=dict(data_root=data_root + '/test', **labelled),
        interval=12,
        size=48,
        metric=dict(type='mmsalmask.KNNMetric', k=20)),
]
