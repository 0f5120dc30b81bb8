# Labelled images as for supervised training, plain and as an encoder pretrained with the high-pass
# strategy or MSCN must see them.
_base_ = './imagenet100_supervised.py'

high_pass = dict(type='mmsalmask.HighPassFilter')
highpass_train_pipeline = [
    *_base_.train_pipeline[:-1], high_pass, _base_.train_pipeline[-1]
]
highpass_test_pipeline = [
    *_base_.test_pipeline[:-1], high_pass, _base_.test_pipeline[-1]
]
# Without thresholds: at lr 30 a second-best class may have a score that is 0 in single precision.
val_evaluator = [
    dict(type='Accuracy', topk=(1, 5), thrs=None),
    # The mean of the classes' recalls.
    dict(
        type='SingleLabelMetric',
        items=['recall'],
        thrs=None,
        prefix='mean_per_class'),
]
test_evaluator = val_evaluator
