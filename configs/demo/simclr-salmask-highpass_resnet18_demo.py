_base_ = './simclr_resnet18_demo.py'

model = dict(
    data_preprocessor=dict(
        masker=dict(
            type='mmsalmask.SaliencyMasker',
            strategy=dict(type='mmsalmask.HighPassNoise'),
            localizer=dict(type='mmsalmask.BoundaryPriorSaliency'))))
