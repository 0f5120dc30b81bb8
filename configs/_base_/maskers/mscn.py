# MSCN (Jing et al. 2022) is the masker without saliency: random patches, no hard negatives.
# Both views are high-pass filtered. The query alone is masked, as in the rows it is compared with,
# so that where the masks lie is all that differs; for masks on both views:
# --cfg-options model.data_preprocessor.masker.masked_views=both
masker = dict(
    type='mmsalmask.SaliencyMasker',
    strategy=dict(type='mmsalmask.HighPassNoise'),
    localizer=None,
    patches='random',
    hard_negatives=0,
    masked_views='query')
