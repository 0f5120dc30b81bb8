_base_ = ['../moco/mocov2_resnet50_4xb32-coslr-200e_in100.py', '../_base_/adios.py']

model = dict(type='mmsalmask.ADIOSMoCo', mask_net=_base_.mask_net, penalty_weight=1.0)
optim_wrapper = _base_.two_optimizers
custom_hooks = [_base_.custom_hooks[0], _base_.slot_gallery, *_base_.custom_hooks[2:]]
