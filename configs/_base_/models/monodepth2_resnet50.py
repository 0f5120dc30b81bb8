# The encoder is frozen, depth decoder and pose network are trained. Another encoder:
# --cfg-options model.encoder.init_cfg.checkpoint=work_dirs/<run>/epoch_200_backbone.pth
custom_imports = dict(imports=['mmsalmask.depth'])
model = dict(
    type='mmsalmask.Monodepth2',
    encoder=dict(
        type='mmsalmask.ResNetPyramid',
        depth=50,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')),
    decoder=dict(type='mmsalmask.DepthDecoder', channels=(16, 32, 64, 128, 256)),
    pose=dict(
        type='mmsalmask.PoseNet',
        encoder=dict(
            type='mmsalmask.ResNetPyramid',
            depth=18,
            in_channels=6,
            init_cfg=dict(
                type='Pretrained', checkpoint='torchvision://resnet18'))),
    freeze_encoder=True,
    depth_range=(0.1, 100.0),
    smoothness=1e-3,
    data_preprocessor=dict(
        type='mmsalmask.DepthDataPreprocessor',
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375)))
