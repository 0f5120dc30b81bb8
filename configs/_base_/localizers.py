# What maskers take as their localizer.
# Needs no weights, so nothing is downloaded: a cell is salient that differs from the view's border.
boundary_prior = dict(type='mmsalmask.BoundaryPriorSaliency')
# The paper's: a ResNet-50 trained with labels, downloaded at the first start.
resnet50 = dict(
    type='mmsalmask.BackboneSaliency',
    backbone=dict(type='ResNet', depth=50),
    checkpoint='torchvision://resnet50.imagenet1k_v2')
