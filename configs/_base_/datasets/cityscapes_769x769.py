_base_ = 'mmseg::_base_/datasets/cityscapes_769x769.py'

high_pass = dict(type='mmsalmask.HighPassFilter')
highpass_train_pipeline = [
    *_base_.train_pipeline[:-1], high_pass, _base_.train_pipeline[-1]
]
highpass_test_pipeline = [
    *_base_.test_pipeline[:-1], high_pass, _base_.test_pipeline[-1]
]
