_base_ = './mocov2_resnet18_demo.py'

model = dict(
    data_preprocessor=dict(
        masker=dict(
            type='mmsalmask.SaliencyMasker',
            strategy=dict(type='mmsalmask.BackgroundPatches'),
            localizer=dict(type='mmsalmask.BoundaryPriorSaliency'))))
