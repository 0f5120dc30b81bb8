# MobileNetV2 instead of ResNet-18.
_base_ = './mocov2-salmask-mean_resnet18_demo.py'

model = dict(
    backbone=dict(_delete_=True, type='MobileNetV2', widen_factor=1.0),
    neck=dict(in_channels=1280, hid_channels=1280))
