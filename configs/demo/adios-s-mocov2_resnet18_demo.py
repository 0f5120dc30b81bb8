_base_ = './adios-mocov2_resnet18_demo.py'

# One slot is drawn per image and phase, instead of the sum over all.
model = dict(single_slot=True)
