# One process: the same batch of 16 in one place, with BatchNorm as it is.
_base_ = './mask-rcnn_r50-c4_8xb2-1x_coco.py'

norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg),
    roi_head=dict(shared_head=dict(norm_cfg=norm_cfg)))
train_dataloader = dict(batch_size=16, num_workers=16)
