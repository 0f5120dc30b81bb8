# Caltech-101 has no split of its own: 30 images of each of the 102 folders (the background's
# included), drawn by a seed, are for training (3060), all others for the test (6084).
_base_ = './imagenet100_linear.py'

data_root = 'data/caltech101'
split = dict(
    _delete_=True,
    type='mmsalmask.PerClassSplit',
    data_root=data_root,
    train_per_class=30,
    seed=0)
train_dataloader = dict(
    batch_size=256,
    dataset=dict(**split, split='train', pipeline=_base_.train_pipeline))
val_dataloader = dict(
    dataset=dict(**split, split='test', pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader
