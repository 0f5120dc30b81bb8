# Local crops of the query on its object, of high-pass filtered views that nothing masks.
_base_ = './objectcrops.py'

masker = dict(strategy=dict(type='mmsalmask.HighPassNoise'))
