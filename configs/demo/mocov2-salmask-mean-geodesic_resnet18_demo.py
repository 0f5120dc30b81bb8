_base_ = './mocov2-salmask-mean_resnet18_demo.py'

model = dict(
    data_preprocessor=dict(
        masker=dict(localizer=dict(type='mmsalmask.GeodesicSaliency'))))
