# ResNet-18, fine-tuned along, 640x192: the usual Monodepth2.
_base_ = './monodepth2_resnet50_1xb12-20e_kitti-640x192.py'

model = dict(encoder=dict(depth=18, init_cfg=dict(checkpoint='torchvision://resnet18')))
