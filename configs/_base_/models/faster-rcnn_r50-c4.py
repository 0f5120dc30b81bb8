# Faster R-CNN C4 as MoCo fine-tunes it: every layer is trained, all norms included.
_base_ = 'mmdet::_base_/models/faster-rcnn_r50-caffe-c4.py'
custom_imports = dict(imports=['mmsalmask.downstream.c4'])

norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    # Starts its shared head, res5, from the file of its backbone, stem to res4.
    type='mmsalmask.C4Detector',
    # As in pretraining, where mmdet's own C4 models expect the colours of another library.
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True),
    backbone=dict(
        frozen_stages=-1,
        norm_cfg=norm_cfg,
        norm_eval=False,
        style='pytorch',
        init_cfg=dict(type='Pretrained', checkpoint='backbone.pth')),
    roi_head=dict(
        shared_head=dict(
            _delete_=True,
            type='mmsalmask.Res5WithNorm',
            depth=50,
            norm_cfg=norm_cfg)))
