# PASCAL VOC: trained on trainval of 2007 and 2012, tested on test of 2007.
data_root = 'data/VOCdevkit/'
loading = [
    dict(type='LoadImageFromFile'),
    # detectron2 learns from objects that are marked as difficult.
    dict(type='mmsalmask.LearnDifficult'),
    dict(type='LoadAnnotations', with_bbox=True),
]
train_pipeline = [
    dict(
        type='RandomChoiceResize',
        scales=[(1333, side) for side in range(480, 801, 32)],
        keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    # Behind the resizing, so that the true boxes stay those of the photo.
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                   'scale_factor')),
]
high_pass = dict(type='mmsalmask.HighPassFilter')
highpass_train_pipeline = [*train_pipeline[:-1], high_pass, train_pipeline[-1]]
highpass_test_pipeline = [*test_pipeline[:-1], high_pass, test_pipeline[-1]]

train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        # Has one pipeline for both years.
        type='MultiImageMixDataset',
        dataset=dict(
            type='ConcatDataset',
            ignore_keys=['dataset_type'],
            datasets=[
                dict(
                    type='VOCDataset',
                    data_root=data_root,
                    ann_file=f'VOC{year}/ImageSets/Main/trainval.txt',
                    data_prefix=dict(sub_data_root=f'VOC{year}/'),
                    # A box without area has no logarithm: its loss would be NaN.
                    filter_cfg=dict(
                        filter_empty_gt=True, min_size=32, bbox_min_size=1),
                    pipeline=loading) for year in (2007, 2012)
            ]),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='VOCDataset',
        data_root=data_root,
        ann_file='VOC2007/ImageSets/Main/test.txt',
        data_prefix=dict(sub_data_root='VOC2007/'),
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader

val_evaluator = [
    dict(type='mmsalmask.CocoStyleAP'),
    # By VOC 2007's rules (11 points of recall) at COCO's ten overlaps.
    dict(
        type='VOCMetric',
        iou_thrs=[0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95],
        eval_mode='11points'),
]
test_evaluator = val_evaluator
