# Local crops of the query on its object, of plain views that nothing masks.
_base_ = '../localizers.py'

masker = dict(
    type='mmsalmask.SaliencyMasker',
    strategy=dict(type='mmsalmask.MeanFill'),
    masked_views='none',
    hard_negatives=0,
    local_crops=2)
