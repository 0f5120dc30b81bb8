_base_ = ['./simclr_resnet18_demo.py', '../_base_/adios.py']

model = dict(
    type='mmsalmask.ADIOSSimCLR',
    mask_net=dict(_base_.mask_net, size=64, slots=4),
    penalty_weight=0.1)
optim_wrapper = dict(
    constructor=_base_.two_optimizers.constructor,
    paramwise_cfg=dict(
        mask_net=dict(optimizer=dict(_base_.mask_net_optimizer, lr=0.1, weight_decay=5e-4))))
custom_hooks = [
    _base_.custom_hooks[0],
    dict(_base_.slot_gallery, interval=4),
    *_base_.custom_hooks[2:],
]
