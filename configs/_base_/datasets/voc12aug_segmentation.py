# PASCAL VOC 2012 with the masks added later: trained on train and aug, tested on val.
_base_ = 'mmseg::_base_/datasets/pascal_voc12_aug.py'

loading, train_pipeline = _base_.train_pipeline[:2], _base_.train_pipeline[2:]
# Before the padding, whose border would be an edge.
high_pass = dict(type='mmsalmask.HighPassFilter')
highpass_train_pipeline = [
    *train_pipeline[:-2], high_pass, *train_pipeline[-2:]
]
highpass_test_pipeline = [
    *_base_.test_pipeline[:-1], high_pass, _base_.test_pipeline[-1]
]
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        # Has one pipeline for both parts.
        type='MultiImageMixDataset',
        dataset=dict(
            type='ConcatDataset',
            datasets=[
                dict(_base_.dataset_train, pipeline=loading),
                dict(_base_.dataset_aug, pipeline=loading),
            ]),
        pipeline=train_pipeline))
