# The view averaged over 7×7 cells and interpolated: a blur for the price of a mean.
_base_ = '../localizers.py'

masker = dict(type='mmsalmask.SaliencyMasker', strategy=dict(type='mmsalmask.LowPass'))
