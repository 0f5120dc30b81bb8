# mocov2-salmask-mean_resnet18_demo.py with its views made on the device that trains.
_base_ = [
    './mocov2-salmask-mean_resnet18_demo.py',
    '../_base_/datasets/device_views.py',
]

size = 64
model = dict(
    data_preprocessor=dict(
        augment=dict(
            type='mmsalmask.DeviceAugmentation',
            view=dict(_base_.mocov2_augment.view, size=size))))
train_dataloader = dict(
    dataset=dict(pipeline=[
        dict(type='mmsalmask.LoadWhole', size=96),
        _base_.device_pipeline[1],
    ]))
