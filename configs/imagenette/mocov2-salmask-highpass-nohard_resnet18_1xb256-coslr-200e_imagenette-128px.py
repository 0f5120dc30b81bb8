_base_ = './mocov2_resnet18_1xb256-coslr-200e_imagenette-128px.py'

model = dict(
    data_preprocessor=dict(
        masker=dict(
            type='mmsalmask.SaliencyMasker',
            strategy=dict(type='mmsalmask.HighPassNoise'),
            localizer=dict(type='mmsalmask.BoundaryPriorSaliency'),
            hard_negatives=0)))
