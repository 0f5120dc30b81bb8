_base_ = './faster-rcnn_r50-c4.py'

model = dict(
    data_preprocessor=dict(pad_mask=True),
    roi_head=dict(
        # The mask head gets the features that the shared head computes for the boxes.
        mask_roi_extractor=None,
        mask_head=dict(
            type='FCNMaskHead',
            num_convs=0,
            in_channels=2048,
            conv_out_channels=256,
            num_classes=80,
            loss_mask=dict(
                type='CrossEntropyLoss', use_mask=True, loss_weight=1.0))),
    train_cfg=dict(rcnn=dict(mask_size=14)),
    test_cfg=dict(rcnn=dict(mask_thr_binary=0.5)))
