_base_ = './mocov2_resnet18_demo.py'

# Constants: configs/mixmask.
model = dict(
    data_preprocessor=dict(
        masker=dict(
            type='mmsalmask.SaliencyMasker',
            strategy=dict(type='mmsalmask.OtherImage'),
            localizer=None,
            grid=8,
            query_ratio=(0.5, 0.5),
            hard_negatives=0,
            patches='block')))
