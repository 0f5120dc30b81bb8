# Local crops of the query on its object, of high-pass filtered views that nothing masks. For plain
# views: --cfg-options model.data_preprocessor.masker.strategy.type=mmsalmask.MeanFill
_base_ = '../localizers.py'

masker = dict(
    type='mmsalmask.SaliencyMasker',
    strategy=dict(type='mmsalmask.HighPassNoise'),
    masked_views='none',
    hard_negatives=0,
    local_crops=2)
