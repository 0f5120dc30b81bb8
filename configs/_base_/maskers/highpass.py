# Noise on high-pass filtered views.
_base_ = '../localizers.py'

masker = dict(type='mmsalmask.SaliencyMasker', strategy=dict(type='mmsalmask.HighPassNoise'))
