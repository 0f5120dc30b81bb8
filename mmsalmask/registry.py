"""Registries of scope ``mmsalmask``.

They are children of mmengine's root registries, so every library of the family finds a part by its
prefixed name, without a custom import: ``dict(type='mmsalmask.HighPassFilter')`` works in an
mmpretrain, an mmdet and an mmseg pipeline alike. Configs of this project keep
``default_scope = 'mmpretrain'`` and prefix what is theirs.
"""

from mmengine import registry as root
from mmengine.registry import Registry

_SCOPE = "mmsalmask"

MODELS = Registry(
    "model",
    parent=root.MODELS,
    scope=_SCOPE,
    locations=["mmsalmask.algorithms", "mmsalmask.engine.saliency_cache"],
)
DATASETS = Registry("dataset", parent=root.DATASETS, scope=_SCOPE, locations=["mmsalmask.data"])
TRANSFORMS = Registry(
    "transform",
    parent=root.TRANSFORMS,
    scope=_SCOPE,
    locations=["mmsalmask.data", "mmsalmask.downstream.difficult"],
)
METRICS = Registry(
    "metric",
    parent=root.METRICS,
    scope=_SCOPE,
    locations=["mmsalmask.evaluation", "mmsalmask.downstream.boxes"],
)
HOOKS = Registry("hook", parent=root.HOOKS, scope=_SCOPE, locations=["mmsalmask.engine"])
VISBACKENDS = Registry(
    "vis_backend",
    parent=root.VISBACKENDS,
    scope=_SCOPE,
    locations=["mmsalmask.engine.tracking"],
)
OPTIM_WRAPPERS = Registry(
    "optimizer wrapper",
    parent=root.OPTIM_WRAPPERS,
    scope=_SCOPE,
    locations=["mmsalmask.engine"],
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    "optimizer wrapper constructor",
    parent=root.OPTIM_WRAPPER_CONSTRUCTORS,
    scope=_SCOPE,
    locations=["mmsalmask.algorithms"],
)
