# Nothing masked, on high-pass filtered views. What a strategy on such views gains beyond this is
# gained by its masks.
_base_ = './mscn.py'

masker = dict(masked_views='none')
