# Another image of the batch. MixMask (Vishniakov, Xing, Shen 2022): it fills half of the query's
# patches, in blocks, and the loss asks for both images in proportion to their pixels. As published,
# the clean query is contrasted, too; without it a step costs what a plain one does:
# --cfg-options model.data_preprocessor.masker.strategy.with_clean=False
masker = dict(
    type='mmsalmask.SaliencyMasker',
    strategy=dict(type='mmsalmask.OtherImage'),
    localizer=None,
    grid=8,
    query_ratio=(0.5, 0.5),
    hard_negatives=0,
    patches='block')
