# What maskers take as their localizer.
# Needs no weights, so nothing is downloaded: a cell is salient that differs from the view's border.
boundary_prior = dict(type='mmsalmask.BoundaryPriorSaliency')
# Needs none, either: how far a cell is from the view's border, along paths of like colours.
geodesic = dict(type='mmsalmask.GeodesicSaliency')
# The paper's: a ResNet-50 trained with labels, downloaded at the first start.
resnet50 = dict(
    type='mmsalmask.BackboneSaliency',
    backbone=dict(type='ResNet', depth=50),
    checkpoint='torchvision://resnet50.imagenet1k_v2')
# A cheaper net with labels. From 32x32 pixels it makes one cell: for views of at least 224 px.
mobilenet_v2 = dict(
    type='mmsalmask.BackboneSaliency',
    backbone=dict(type='MobileNetV2'),
    checkpoint='torchvision://mobilenet_v2')
