# A config: the demo recipe with its two views made by the workers, at 32 px.
_base_ = [
    "../configs/demo/mocov2-salmask-mean_resnet18_demo.py",
    "../configs/_base_/datasets/mocov2_views.py",
]

model = dict(data_preprocessor=dict(augment=None))
view_pipeline = [dict(_base_.view_pipeline[0], scale=32), *_base_.view_pipeline[1:]]
train_pipeline = [
    _base_.train_pipeline[0],
    dict(_base_.train_pipeline[1], transforms=[view_pipeline]),
    _base_.train_pipeline[2],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
