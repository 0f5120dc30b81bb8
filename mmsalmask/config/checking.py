"""Check that every part of a config is taken by the class or function that receives it."""

import inspect
from collections.abc import Callable
from importlib import import_module

import torch
from mmengine import registry as roots
from mmengine.config import Config
from mmengine.dist import init_dist
from mmengine.evaluator import Evaluator
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.runner import (
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    LogProcessor,
    Runner,
    TestLoop,
    ValLoop,
)
from mmengine.utils import import_modules_from_strings
from mmengine.utils.dl_utils import set_multi_processing
from torch.utils.data import DataLoader

from mmsalmask.checks import is_integer
from mmsalmask.config.registries import import_library, resolve
from mmsalmask.config.signatures import Parameters, parameters_of
from mmsalmask.config.spots import Spot, root_of, step, walk
from mmsalmask.config.values import check_values
from mmsalmask.config.wording import ask, nearest
from mmsalmask.errors import InputError
from mmsalmask.registry import MODELS

# What mmengine reads from the top of a config besides the arguments of `Runner`.
TOP_KEYS = (
    *(
        name
        for name in inspect.signature(Runner.__init__).parameters
        if name not in ("self", "cfg")
    ),
    "custom_imports",
    "model_wrapper_cfg",
    "sync_bn",
    "find_unused_parameters",
    "activation_checkpointing",
    "efficient_conv_bn_eval",
    "compile",
    "runner_type",
    "strategy",
    # Read by mmsalmask.engine.launch.
    "fast_step",
    "compile_encoders",
)
# Read by the libraries' test tools; `test_pipeline`, a usual helper variable, resembles one.
TOOL_KEYS = ("tta_model", "tta_pipeline")
_DEFAULT_HOOKS = {
    "runtime_info": "RuntimeInfoHook",
    "timer": "IterTimerHook",
    "sampler_seed": "DistSamplerSeedHook",
    "logger": "LoggerHook",
    "param_scheduler": "ParamSchedulerHook",
    "checkpoint": "CheckpointHook",
}
# `DefaultOptimWrapperConstructor` reads these and ignores every other key.
_PARAMWISE_KEYS = (
    "custom_keys",
    "bias_lr_mult",
    "bias_decay_mult",
    "norm_decay_mult",
    "flat_decay_mult",
    "dwconv_decay_mult",
    "dcn_offset_lr_mult",
    "bypass_duplicate",
)
# Keys that whoever builds the part takes out before the part's own signature sees the rest.
_BUILDER_KEYS = {
    roots.HOOKS: ("priority",),
    roots.PARAM_SCHEDULERS: ("convert_to_iter_based", "epoch_length"),
    roots.OPTIM_WRAPPERS: ("constructor", "paramwise_cfg"),
    roots.LOOPS: ("by_epoch",),
}
_LAYER_KEYS = {
    "norm_cfg": "requires_grad",
    "dcn": "fallback_on_stride",
    "upsample_cfg": "scale_factor",
}
# Dicts whose `type` is no registry's but a function's or class's name in torch or mmcv.
_UNREGISTERED = ("clip_grad", "nms", "roi_layer")


def check_config(cfg: Config) -> None:
    """Refuse a config with a misspelt key or an unknown ``type``, before anything is built.

    Every dict that will be built is compared with the signature of what its ``type`` names in the
    registry that will look it up, base classes included where ``**kwargs`` are handed on to them;
    the sections that mmengine reads itself (dataloaders, loops, ``env_cfg``, …) with what it reads.
    A top-level name that mmengine does not know is a user's helper variable, unless it looks like a
    misspelling. Values that mmengine and torch would not check are checked here
    (:mod:`mmsalmask.config.values`). An algorithm has to take the hard negatives and mixed queries
    that the masker makes, and training has to last until each part of a schedule begins.

    Raises:
        InputError: With the dotted path of the first fault, and the nearest valid name or value.
    """
    for key in cfg:
        if key in (*TOP_KEYS, *TOOL_KEYS):
            continue
        near = nearest(key, {k: k for k in TOP_KEYS if k not in cfg}, cutoff=0.85)
        near = near or nearest(key, {k: k for k in TOP_KEYS}, cutoff=0.88)
        if near:
            raise InputError(f"no config key '{key}'{ask(near)}")
    import_library(cfg.get("default_scope") or "mmengine", "default_scope")
    root = root_of(cfg)
    for key in cfg:
        if key in (*TOP_KEYS, *TOOL_KEYS):
            for spot in walk(step(root, key)):
                _check_spot(spot)
    check_values(cfg)
    if "type" in (cfg.get("model") or {}):
        _check_masker(cfg)
    _check_schedule(cfg)


def _check_schedule(cfg: Config) -> None:
    """Refuse a training that ends before a part of its schedule begins, or has none of its epochs.

    A part without an end of its own ends with the training.
    """
    schedulers, loop = cfg.get("param_scheduler"), cfg.get("train_cfg") or {}
    for number, part in enumerate(schedulers if isinstance(schedulers, list) else [schedulers]):
        if not isinstance(part, dict) or not part.get("by_epoch", True):
            continue
        name, begin = f"param_scheduler.{number}", part.get("begin", 0)
        if _by_iterations(loop) and not _lasts_in_iterations(part):
            raise InputError(
                f"{name} counts epochs, but training counts iterations, so it would not follow "
                f"them: set {name}.by_epoch=False (begin, end and T_max then count iterations, too)"
            )
        epochs = loop.get("max_epochs")
        if "end" not in part and is_integer(epochs, 1) and is_integer(begin, epochs):
            before = f" and param_scheduler.{number - 1}.end" if number else ""
            raise InputError(
                f"{name} begins at epoch {begin}, when training of {epochs} epochs is over: train "
                f"longer, or lower {name}.begin{before}"
            )


def _by_iterations(loop: dict) -> bool:
    named = loop.get("type")
    if named is None:
        return "max_iters" in loop
    return named in (IterBasedTrainLoop, "IterBasedTrainLoop", "mmengine.IterBasedTrainLoop")


def _lasts_in_iterations(part: dict) -> bool:
    """Whether a part of a schedule that counts epochs knows how many iterations it lasts."""
    follows_metric = "ReduceOnPlateau" in str(part.get("type"))
    return follows_metric or bool(part.get("convert_to_iter_based") and "end" in part)


def _check_masker(cfg: Config) -> None:
    """Refuse hard negatives and mixed queries that the algorithm ignores, and idle settings."""
    model = cfg.model
    path = "model.data_preprocessor" if model.get("data_preprocessor") else "data_preprocessor"
    masker = (model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}).get("masker")
    if masker is not None and not (isinstance(masker, dict) and "type" in masker):
        raise InputError(
            f"{path}.masker has no 'type': take a config that has a masker, or write "
            "type='mmsalmask.SaliencyMasker'"
        )
    algorithm = resolve(step(root_of(cfg), "model"), model.type)[0]
    takes, made = getattr(algorithm, "takes_hard_negatives", False), _made(masker)
    if _mixes(masker) and not getattr(algorithm, "takes_mixtures", False):
        raise InputError(
            f"model: {algorithm.__name__} asks for one image per view, but the masker mixes two: "
            f"set another {path}.masker.strategy, or train mmsalmask.MaskedMoCo"
        )
    if (masker or {}).get("local_crops") and not getattr(algorithm, "takes_local_crops", False):
        raise InputError(
            f"model: {algorithm.__name__} would ignore the local crops that the masker cuts: set "
            f"{path}.masker.local_crops=0, or train mmsalmask.MaskedMoCo or mmsalmask.MaskedSimCLR"
        )
    if made and not takes:
        raise InputError(
            f"model: {algorithm.__name__} takes two views, the hard negatives that the masker "
            f"makes would be ignored: set {path}.masker.hard_negatives=0"
        )
    if made or not takes:
        return
    settings = (
        (model.get("head"), "model.head.penalty"),
        (masker, f"{path}.masker.hard_negative_ratio"),
    )
    for holder, name in settings:
        if isinstance(holder, dict) and name.rpartition(".")[2] in holder:
            raise InputError(
                f"{name} has no effect, since no hard negatives are made: leave it out, or set "
                f"{path}.masker.hard_negatives to 1 or more"
            )


def _made(masker: dict | None) -> int:
    """The number of hard negatives per image that a masker of this config makes."""
    if masker is None:
        return 0
    usual = inspect.signature(MODELS.get(masker["type"])).parameters.get("hard_negatives")
    return masker.get("hard_negatives", usual.default if usual else 0)


def _mixes(masker: dict | None) -> bool:
    """Whether a masker of this config fills views from other images."""
    strategy = (masker or {}).get("strategy")
    known = isinstance(strategy, dict) and "type" in strategy
    return known and getattr(MODELS.get(strategy["type"]), "mixes", False)


def _check_spot(spot: Spot) -> None:
    if not isinstance(spot.value, dict):
        return
    if spot.path == ("default_hooks",):
        _check_hook_names(spot)
    if spot.registry is roots.HOOKS and spot.exact and "type" not in spot.value:
        usual = _DEFAULT_HOOKS.get(spot.path[-1])
        hint = f": write type='{usual}'" if usual else ""
        raise InputError(f"{spot.name} has no 'type'{hint}")
    if spot.registry is roots.OPTIM_WRAPPERS and spot.exact and "constructor" in spot.value:
        constructors = spot._replace(
            registry=roots.OPTIM_WRAPPER_CONSTRUCTORS, path=(*spot.path, "constructor")
        )
        resolve(constructors, spot.value["constructor"])
    accepted = accepted_by(spot)
    if not accepted:
        return
    for key in spot.value:
        if any(parameters.accepts(key) for parameters in accepted):
            continue
        owner, names, _ = accepted[0]
        near = nearest(key, {name: name for name in names})
        known = ask(near) or f"; it takes {', '.join(names) or 'nothing'}"
        raise InputError(f"{spot.name}: {owner} takes no '{key}'{known}")


def _check_hook_names(spot: Spot) -> None:
    """Refuse what is no hook, and a misspelt name, which would add one to mmengine's own."""
    for name, hook in spot.value.items():
        if isinstance(hook, bool | int | float | str | list | tuple):
            raise InputError(
                f"default_hooks.{name} must be a dict with a 'type', or None for no such hook, got "
                f"{hook!r}"
            )
        absent = {k: f"default_hooks.{k}" for k in _DEFAULT_HOOKS if k not in spot.value}
        near = nearest(name, absent, cutoff=0.85)
        if name not in _DEFAULT_HOOKS and near:
            raise InputError(f"no config key 'default_hooks.{name}'{ask(near)}")


# -------------------------------------------------------------------------------- what is accepted


def accepted_by(spot: Spot) -> list[Parameters]:
    """Return what may receive this dict; an empty list if nothing is known to."""
    name = spot.value.get("type")
    if spot.path and spot.path[-1] in _UNREGISTERED:
        return _accepted_unregistered(spot)
    extra = _BUILDER_KEYS.get(spot.registry, ()) if spot.exact else ()
    if name is None:
        accepted = _accepted_section(spot)
    elif isinstance(name, str):
        accepted = [parameters_of(part) for part in resolve(spot, name)]
    else:
        accepted = [parameters_of(name)]
    for ending, key in _LAYER_KEYS.items():
        if spot.name.endswith(ending):
            extra = (*extra, key)
    return [p._replace(names=tuple(dict.fromkeys((*p.names, *extra)))) for p in accepted]


def _accepted_unregistered(spot: Spot) -> list[Parameters]:
    name = spot.value.get("type", "norm")
    if spot.path[-1] == "clip_grad":
        clips = {"norm": torch.nn.utils.clip_grad_norm_, "value": torch.nn.utils.clip_grad_value_}
        if name not in clips:
            raise InputError(f"{spot.name}: 'type' is {name!r}; it must be 'norm' or 'value'")
        return [parameters_of(clips[name])]
    if spot.path[-1] == "roi_layer" and isinstance(name, str):
        layer = getattr(import_module("mmcv.ops"), name, None)
        if layer is None:
            near = nearest(name, {n: n for n in import_module("mmcv.ops").__all__})
            raise InputError(f"{spot.name}: '{name}' is no operator of mmcv{ask(near)}")
        return [parameters_of(layer)]
    return []  # what an `nms` may hold depends on the values beside it


def _accepted_section(spot: Spot) -> list[Parameters]:
    """Return what mmengine itself reads from a dict without ``type``."""
    path, value = spot.path, spot.value
    if not path:
        return [Parameters("a config", TOP_KEYS)]
    if len(path) == 1 and path[0].endswith("_dataloader"):
        names = (
            *parameters_of(DataLoader).names,
            "num_batch_per_epoch",
            "disable_subprocess_warning",
        )
        return [Parameters("a dataloader", names)]
    if path == ("train_cfg",):
        by_epoch = value.get("by_epoch", True)
        return [parameters_of(EpochBasedTrainLoop if by_epoch else IterBasedTrainLoop)]
    if path == ("optim_wrapper",):
        # Without an optimizer it holds several wrappers, under names of the user's.
        return [parameters_of(OptimWrapper)] if "optimizer" in value else []
    if path == ("optim_wrapper", "paramwise_cfg"):
        if "constructor" in spot.outer:
            return []
        return [Parameters("paramwise_cfg", _PARAMWISE_KEYS)]
    if path in (("val_evaluator",), ("test_evaluator",)) and "metrics" in value:
        return [parameters_of(Evaluator)]
    section = _SECTIONS.get(path)
    if section is None:
        return []
    return [section if isinstance(section, Parameters) else parameters_of(section)]


_SECTIONS: dict[tuple[str, ...], Callable | Parameters] = {
    ("val_cfg",): ValLoop,
    ("test_cfg",): TestLoop,
    ("log_processor",): LogProcessor,
    ("model_wrapper_cfg",): MMDistributedDataParallel,
    ("compile",): torch.compile,
    ("randomness",): Runner.set_randomness,
    ("custom_imports",): import_modules_from_strings,
    ("auto_scale_lr",): Parameters("auto_scale_lr", ("base_batch_size", "enable")),
    ("env_cfg",): Parameters(
        "env_cfg", ("cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit")
    ),
    ("env_cfg", "mp_cfg"): set_multi_processing,
    ("env_cfg", "dist_cfg"): init_dist,
}
