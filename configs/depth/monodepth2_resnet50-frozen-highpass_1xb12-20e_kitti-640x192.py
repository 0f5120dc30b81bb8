# A frozen encoder that was pretrained on high-pass filtered images (high-pass strategy, MSCN).
_base_ = './monodepth2_resnet50-frozen_1xb12-20e_kitti-640x192.py'

# After the jitter: x - G*x of the encoder's view alone, as in its pretraining.
high_pass = dict(type='mmsalmask.HighPassFilter', kernel_size=11, sigma=5.0)
train_dataloader = dict(
    dataset=dict(
        pipeline=[*_base_.train_pipeline[:-1], high_pass, _base_.train_pipeline[-1]]))
test_dataloader = dict(
    dataset=dict(pipeline=[*_base_.test_pipeline[:-1], high_pass, _base_.test_pipeline[-1]]))
