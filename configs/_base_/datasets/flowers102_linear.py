# Flowers-102 with its official split: trained on train and val (2040), tested on test (6149).
_base_ = './imagenet100_linear.py'

data_root = 'data/flowers102'
flowers = dict(
    _delete_=True,
    type='Flowers102',
    data_root=data_root,
    metainfo=dict(classes=[str(number) for number in range(1, 103)]))
train_dataloader = dict(
    batch_size=256,
    dataset=dict(
        **flowers, split='trainval', pipeline=_base_.train_pipeline))
val_dataloader = dict(
    dataset=dict(**flowers, split='test', pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader
