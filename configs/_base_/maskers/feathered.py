# The view's mean, faded in over half a patch.
_base_ = '../localizers.py'

masker = dict(type='mmsalmask.SaliencyMasker', strategy=dict(type='mmsalmask.FeatheredMean'))
