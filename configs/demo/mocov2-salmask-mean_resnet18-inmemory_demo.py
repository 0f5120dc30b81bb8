# mocov2-salmask-mean_resnet18_demo.py with all images decoded once and kept on the device: a batch
# is a list of positions. With resident=False, and without the hook, they stay in the memory that
# the workers share.
_base_ = './mocov2-salmask-mean_resnet18_demo.py'

train_dataloader = dict(
    num_workers=1,
    dataset=dict(
        _delete_=True,
        type='mmsalmask.InMemory',
        resident=True,
        dataset=_base_.train_dataloader.dataset))
custom_hooks = [*_base_.custom_hooks, dict(type='mmsalmask.ResidentImagesHook')]
