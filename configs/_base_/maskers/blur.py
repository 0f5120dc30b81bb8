# Strong blur.
_base_ = '../localizers.py'

masker = dict(type='mmsalmask.SaliencyMasker', strategy=dict(type='mmsalmask.StrongBlur'))
