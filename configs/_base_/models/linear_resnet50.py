# A linear classifier on a frozen backbone: no gradient, BatchNorm in eval mode. The file is what
# tools/export_backbone.py writes: --cfg-options model.backbone.init_cfg.checkpoint=backbone.pth
_base_ = './supervised_resnet50.py'

model = dict(
    backbone=dict(
        frozen_stages=4,
        init_cfg=dict(type='Pretrained', checkpoint='backbone.pth')))
