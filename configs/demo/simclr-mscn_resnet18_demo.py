_base_ = './simclr_resnet18_demo.py'

# Why the query alone is masked: configs/mscn.
model = dict(
    data_preprocessor=dict(
        masker=dict(
            type='mmsalmask.SaliencyMasker',
            strategy=dict(type='mmsalmask.HighPassNoise'),
            localizer=None,
            patches='random',
            hard_negatives=0,
            masked_views='query')))
