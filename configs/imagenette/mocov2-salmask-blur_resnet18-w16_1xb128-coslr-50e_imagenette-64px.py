_base_ = './mocov2_resnet18-w16_1xb128-coslr-50e_imagenette-64px.py'

model = dict(
    data_preprocessor=dict(
        masker=dict(
            type='mmsalmask.SaliencyMasker',
            strategy=dict(type='mmsalmask.StrongBlur'),
            localizer=dict(type='mmsalmask.BoundaryPriorSaliency'))))
