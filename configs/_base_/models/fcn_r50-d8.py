_base_ = 'mmseg::_base_/models/fcn_r50-d8.py'

model = dict(
    pretrained=None,
    # The stem of the pretrained ResNet is one convolution, mmseg's own three.
    backbone=dict(
        type='ResNet',
        init_cfg=dict(type='Pretrained', checkpoint='backbone.pth')))
