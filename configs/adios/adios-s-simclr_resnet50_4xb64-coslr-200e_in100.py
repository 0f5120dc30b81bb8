_base_ = './adios-simclr_resnet50_4xb64-coslr-200e_in100.py'

# One slot is drawn per image and phase, instead of the sum over all.
model = dict(single_slot=True)
