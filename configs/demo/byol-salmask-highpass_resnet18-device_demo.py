# byol-salmask-highpass_resnet18_demo.py with views made on the device: BYOL's own two, of which one
# is always blurred and the other sometimes solarized.
_base_ = [
    './byol-salmask-highpass_resnet18_demo.py',
    '../_base_/datasets/device_views.py',
]

size = 64
model = dict(
    data_preprocessor=dict(
        augment=dict(
            type='mmsalmask.DeviceAugmentation',
            view=dict(_base_.byol_augment.view, size=size),
            key=dict(_base_.byol_augment.key, size=size))))
train_dataloader = dict(
    dataset=dict(pipeline=[
        dict(type='mmsalmask.LoadWhole', size=96),
        _base_.device_pipeline[1],
    ]))
