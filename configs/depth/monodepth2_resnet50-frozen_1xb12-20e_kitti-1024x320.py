# A frozen encoder at 1024x320.
_base_ = './monodepth2_resnet50-frozen_1xb12-20e_kitti-640x192.py'

resize = dict(type='mmsalmask.ResizeFrames', scale=(1024, 320))
train_dataloader = dict(
    dataset=dict(pipeline=[_base_.train_pipeline[0], resize, *_base_.train_pipeline[2:]]))
test_dataloader = dict(
    dataset=dict(pipeline=[_base_.test_pipeline[0], resize, *_base_.test_pipeline[2:]]))
