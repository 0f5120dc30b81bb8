"""The values of a config, and in which registry each of them is looked up."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from mmengine import registry as roots
from mmengine.config import Config
from mmengine.registry import Registry

_TOP_REGISTRIES = {
    "model": roots.MODELS,
    "data_preprocessor": roots.MODELS,
    "tta_model": roots.MODELS,
    "tta_pipeline": roots.TRANSFORMS,
    "train_cfg": roots.LOOPS,
    "val_cfg": roots.LOOPS,
    "test_cfg": roots.LOOPS,
    "optim_wrapper": roots.OPTIM_WRAPPERS,
    "param_scheduler": roots.PARAM_SCHEDULERS,
    "val_evaluator": roots.METRICS,
    "test_evaluator": roots.METRICS,
    "custom_hooks": roots.HOOKS,
    "visualizer": roots.VISUALIZERS,
    "log_processor": roots.LOG_PROCESSORS,
    "model_wrapper_cfg": roots.MODEL_WRAPPERS,
    "strategy": roots.STRATEGIES,
}
_KEY_REGISTRIES = {
    "dataset": roots.DATASETS,
    "datasets": roots.DATASETS,
    "pipeline": roots.TRANSFORMS,
    "transforms": roots.TRANSFORMS,
    "init_cfg": roots.WEIGHT_INITIALIZERS,
    "vis_backends": roots.VISBACKENDS,
    "backbone": roots.MODELS,
    "neck": roots.MODELS,
    "head": roots.MODELS,
}
_DATALOADER_REGISTRIES = {
    "dataset": roots.DATASETS,
    "sampler": roots.DATA_SAMPLERS,
    "batch_sampler": roots.DATA_SAMPLERS,
    "collate_fn": roots.FUNCTIONS,
    "worker_init_fn": roots.FUNCTIONS,
}
# Their `transforms` are albumentations' own.
_ALBUMENTATIONS = ("Albu", "Albumentations")


class Spot(NamedTuple):
    """One value of a config, and where it is looked up.

    ``outer`` is the dict or list that holds it, ``registry`` the root registry its ``type`` belongs
    to, ``exact`` says that no other will do, ``scopes`` are the libraries searched, in order.
    """

    path: tuple[str, ...]
    value: Any
    outer: Any
    registry: Registry | None
    exact: bool
    scopes: tuple[str, ...]

    @property
    def name(self) -> str:
        return ".".join(self.path)


def root_of(cfg: Config) -> Spot:
    """The config itself."""
    scope = cfg.get("default_scope") or "mmengine"
    return Spot((), cfg._cfg_dict, None, None, False, (scope,))


def walk(spot: Spot) -> Iterator[Spot]:
    """The value and all that it holds, at any depth, outer ones first."""
    yield spot
    if isinstance(spot.value, dict):
        foreign = str(spot.value.get("type")).rpartition(".")[2] in _ALBUMENTATIONS
        keys = [key for key in spot.value if not (foreign and key == "transforms")]
    elif isinstance(spot.value, list | tuple):
        keys = [str(index) for index in range(len(spot.value))]
    else:
        return
    for key in keys:
        yield from walk(step(spot, key))


def step(spot: Spot, key: str) -> Spot:
    """Go from a value to one of its entries."""
    path = (*spot.path, key)
    if isinstance(spot.value, list | tuple):
        return spot._replace(path=path, value=spot.value[int(key)], outer=spot.value)
    value = spot.value[key]
    scopes = _scopes_inside(spot)
    registry = _registry_of(spot, key, value)
    if registry is None:
        return Spot(path, value, spot.value, spot.registry, False, scopes)
    return Spot(path, value, spot.value, registry, True, scopes)


def _registry_of(spot: Spot, key: str, value: Any) -> Registry | None:
    if not spot.path:
        if key.endswith("_evaluator") and isinstance(value, dict) and "metrics" in value:
            return roots.EVALUATOR
        return _TOP_REGISTRIES.get(key)
    top = spot.path[0]
    if top.endswith("_dataloader") and len(spot.path) == 1:
        return _DATALOADER_REGISTRIES.get(key)
    if top == "default_hooks" and len(spot.path) == 1:
        return roots.HOOKS
    if top == "optim_wrapper" and key == "optimizer":
        return roots.OPTIMIZERS
    if top.endswith("_evaluator") and key == "metrics":
        return roots.METRICS
    if top == "param_scheduler" and len(spot.path) == 1 and "type" not in spot.value:
        return roots.PARAM_SCHEDULERS
    return _KEY_REGISTRIES.get(key)


def _scopes_inside(spot: Spot) -> tuple[str, ...]:
    """``_scope_`` switches the library; a class looks in its own library's registries as well."""
    first = spot.value.get("_scope_") or spot.scopes[0]
    name = spot.value.get("type")
    own = name.partition(".")[0] if isinstance(name, str) and "." in name else first
    return tuple(dict.fromkeys((first, *spot.scopes, own)))
