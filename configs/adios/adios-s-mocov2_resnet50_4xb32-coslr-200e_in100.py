_base_ = './adios-mocov2_resnet50_4xb32-coslr-200e_in100.py'

# One slot is drawn per image and phase, instead of the sum over all.
model = dict(single_slot=True)
