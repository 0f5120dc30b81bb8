_base_ = './mocov2_resnet18-w16_1xb128-coslr-50e_imagenette-64px.py'

model = dict(
    data_preprocessor=dict(
        masker=dict(
            type='mmsalmask.SaliencyMasker',
            strategy=dict(type='mmsalmask.HighPassNoise'),
            localizer=None,
            patches='random',
            hard_negatives=0,
            masked_views='query')))
