# Patches of the same view's background.
_base_ = '../localizers.py'

masker = dict(type='mmsalmask.SaliencyMasker', strategy=dict(type='mmsalmask.BackgroundPatches'))
