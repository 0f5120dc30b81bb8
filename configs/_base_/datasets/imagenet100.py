_base_ = './image_folder.py'

# An ordinary ImageNet folder, train/<wnid>/*.JPEG; the 100 classes are picked from it in place.
data_root = 'data/imagenet'
train_dataloader = dict(
    dataset=dict(type='mmsalmask.ImageNet100', data_root=data_root, split='train'))
