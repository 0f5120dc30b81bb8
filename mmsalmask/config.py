"""Configs that cannot be mistyped.

mmengine adds an unknown key of ``--cfg-options`` silently, and a misspelt key of a config file
surfaces minutes later, as a TypeError from inside a class, or never. Here both are found before
anything is built, and named beside the nearest thing that exists:

- :func:`load_config` reads a file and merges the options of the command line;
- :func:`check_config` compares every key and every ``type`` with what will receive it.
"""

import ast
import difflib
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine import registry as roots
from mmengine.config import Config
from mmengine.dist import init_dist
from mmengine.evaluator import Evaluator
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import Registry
from mmengine.runner import (
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    LogProcessor,
    Runner,
    TestLoop,
    ValLoop,
)
from mmengine.utils import get_object_from_string, import_modules_from_strings
from mmengine.utils.dl_utils import set_multi_processing
from torch.utils.data import DataLoader

from mmsalmask.errors import InputError
from mmsalmask.registry import MODELS

_LIBRARIES = ("mmsalmask", "mmpretrain", "mmdet", "mmseg", "mmengine")
_MERGE_KEYS = frozenset({"type", "_delete_", "_scope_"})

# What mmengine reads from the top of a config besides the arguments of `Runner`.
_TOP_KEYS = (
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
_TOOL_KEYS = ("tta_model", "tta_pipeline")
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
# Their `transforms` are albumentations' own.
_ALBUMENTATIONS = ("Albu", "Albumentations")
# Dicts whose `type` is no registry's but a function's or class's name in torch or mmcv.
_UNREGISTERED = ("clip_grad", "nms", "roi_layer")


class Parameters(NamedTuple):
    """What a dict may hold: ``names``, and anything else too if ``free``; ``owner`` receives it."""

    owner: str
    names: tuple[str, ...]
    free: bool = False

    def accepts(self, key: str) -> bool:
        return self.free or key in self.names or key in _MERGE_KEYS


class _Spot(NamedTuple):
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


# --------------------------------------------------------------------------------------- reading


def load_config(path: str, options: dict[str, Any] | None = None) -> Config:
    """Read a config file and merge the options of the command line into it.

    Args:
        path: A config file (``.py``, ``.yaml``, ``.yml``, ``.json``).
        options: What ``mmengine.DictAction`` made of ``--cfg-options``: dotted path → value. A
            number in a path counts into a list (``train_pipeline.0.scale``).

    mmengine evaluates a file's variables before it merges options, so an override of a top-level
    variable such as ``base_lr`` or ``train_pipeline`` would change nothing at all. It is refused
    where its value is found in what mmengine reads. ``data_root`` alone is carried to every entry
    that held the old value or a path below it (an option that names such an entry itself wins): a
    number equals unrelated entries by chance, a dataset's path does not.

    Raises:
        InputError: The file is missing or cannot be read as a config; an option names a key that
            neither exists nor is accepted by what it would be added to, or would have no effect.
    """
    cfg = _read(path)
    options = dict(options or {})
    _refuse_nested_options(options)
    old_root = cfg.get("data_root")
    if "data_root" in options and old_root is not None:
        _carry_data_root(cfg, old_root, options["data_root"])
    # A new `type` decides which keys may stand beside and below it: types first, outer ones ahead.
    types = [key for key in options if key.rpartition(".")[2] == "type"]
    others = {key: value for key, value in options.items() if key not in types}
    ordered = sorted(types, key=lambda key: key.count("."))
    for group in (*({key: options[key]} for key in ordered), others):
        for key in group:
            _check_option(cfg, key)
            _check_effect(cfg, key)
        cfg.merge_from_dict(group)
    return cfg


def _read(path: str) -> Config:
    file = Path(path)
    if not file.is_file():
        raise InputError(_missing_file(file))
    if file.suffix not in (".py", ".yaml", ".yml", ".json"):
        raise InputError(f"'{path}' is no config file: its name must end in .py, .yaml or .json")
    try:
        return Config.fromfile(path)
    except SyntaxError as error:
        file = (_files_being_read(error) or [path])[-1]
        line = f", line {error.lineno}" if error.lineno else ""
        raise InputError(f"syntax error in config '{file}'{line}: {error.msg}") from error
    except FileNotFoundError as error:
        reading = _files_being_read(error)
        if len(reading) < 2 or Path(reading[-1]).is_file():
            raise InputError(f"config '{path}' cannot be read: {error}") from error
        child, base = reading[-2:]
        near = _nearest_files(Path(base))
        raise InputError(
            f"config '{child}' names a _base_ that does not exist: '{base}'{_ask(near)}"
        ) from error
    except (
        RuntimeError,
        NameError,
        KeyError,
        AttributeError,
        TypeError,
        ValueError,
    ) as error:
        file = (_files_being_read(error) or [path])[-1]
        raise InputError(
            f"config '{file}' cannot be read: {type(error).__name__}: {error}"
        ) from error


def _files_being_read(error: BaseException) -> list[str]:
    """Return the chain of config files mmengine was reading, which its errors do not tell."""
    files = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "_file2dict":
            files.append(str(trace.tb_frame.f_locals["filename"]))
        trace = trace.tb_next
    return files


def _missing_file(file: Path) -> str:
    kind = "a folder, not a config file" if file.is_dir() else "not there"
    return f"config '{file}' is {kind}{_ask(_nearest_files(file))}"


def _nearest_files(file: Path) -> list[str]:
    """Return up to three config files with the nearest names, its own folder's before others."""
    folder = file if file.is_dir() else file.parent
    near = _nearest(file.name, {p.name: str(p) for p in sorted(folder.glob("*.py"))}, count=3)
    everywhere = {p.name: str(p) for p in sorted(Path("configs").rglob("*.py"))}
    return near or _nearest(file.name, everywhere, count=3)


# --------------------------------------------------------------------------------------- options


def _refuse_nested_options(options: Iterable[str]) -> None:
    for key in options:
        parts = key.split(".")
        for end in range(1, len(parts)):
            outer = ".".join(parts[:end])
            if outer in options:
                raise InputError(f"options '{outer}' and '{key}' contradict each other: give one")


def _carry_data_root(cfg: Config, old: Any, new: Any) -> None:
    folder = old.rstrip("/") if isinstance(old, str) else ""

    def carry(value: Any) -> Any:
        if isinstance(value, dict):
            for key in value:
                # An empty root is no name that could be recognised elsewhere.
                moved = key == "data_root" and value[key] == old
                value[key] = new if moved else carry(value[key])
        elif isinstance(value, list | tuple):
            return type(value)(carry(item) for item in value)
        elif folder and isinstance(value, str) and value == old:
            return new
        elif folder and isinstance(value, str) and value.startswith(f"{folder}/"):
            return str(new).rstrip("/") + value[len(folder) :]
        return value

    for key in cfg:
        if key != "data_root":
            cfg[key] = carry(cfg[key])


def _check_option(cfg: Config, key: str) -> None:
    """Refuse a dotted path that leads nowhere."""
    spot = _root(cfg)
    for part in key.split("."):
        if isinstance(spot.value, list):
            if not part.isdigit():
                raise InputError(
                    f"no config key '{key}': {spot.name} is a list, count into it: {spot.name}.0"
                )
            if int(part) >= len(spot.value):
                raise InputError(
                    f"no config key '{key}': {spot.name} has {len(spot.value)} entries, "
                    "counted from 0"
                )
        elif not isinstance(spot.value, dict):
            raise InputError(
                f"no config key '{key}': {spot.name} is {spot.value!r}, which holds no keys"
            )
        elif part not in spot.value:
            _check_new_key(cfg, spot, part, key)
            return
        spot = _step(spot, part)


def _check_new_key(cfg: Config, spot: _Spot, part: str, key: str) -> None:
    if part in ("type", "_delete_", "_scope_") and spot.path:
        return
    accepted = _accepted(spot)
    if any(parameters.accepts(part) for parameters in accepted):
        return
    names = [name for parameters in accepted for name in parameters.names]
    siblings = {name: ".".join((*spot.path, name)) for name in (*spot.value, *names)}
    near = _nearest(part, siblings) or _same_ending(cfg, key)
    if not near and spot.path:
        known = ", ".join(sorted(siblings)) or "none"
        raise InputError(
            f"no config key '{key}': the keys of {spot.name} are {known} "
            "(one that is new here must be written in a config file)"
        )
    raise InputError(f"no config key '{key}'{_ask(near)}")


def _check_effect(cfg: Config, key: str) -> None:
    """Refuse an option for a helper variable whose value has gone into the config already."""
    parts = key.split(".")
    if parts[0] in (*_TOP_KEYS, *_TOOL_KEYS, "data_root"):
        return
    spot = _root(cfg)
    for end, part in enumerate(parts, 1):
        if isinstance(spot.value, dict) and part not in spot.value:
            return
        spot = _step(spot, part)
        # A lone number deep in a variable stands in too many places to say where it went.
        places = _places(cfg, spot.value) if end == 1 or isinstance(spot.value, dict | list) else []
        if places:
            names = [".".join((place, *parts[end:])) for place in places]
            near = _nearest(parts[-1], {name: name for name in names}, count=3, cutoff=0)
            *others, last = [*near, *([f"{len(names) - 3} others"] if len(names) > 3 else [])]
            raise InputError(
                f"'{key}' was read while the config was parsed, overriding it has no effect: "
                f"override {', '.join(others)}{' or ' if others else ''}{last} instead"
            )


def _places(cfg: Config, value: Any) -> list[str]:
    """Where in what mmengine reads this value stands; nowhere for values that say too little."""
    if isinstance(value, bool) or value in (None, "", [], {}, ()):
        return []
    root = _root(cfg)
    spots = (s for key in cfg if key in (*_TOP_KEYS, *_TOOL_KEYS) for s in _walk(_step(root, key)))
    return [spot.name for spot in spots if type(spot.value) is type(value) and spot.value == value]


def _same_ending(cfg: Config, key: str) -> list[str]:
    """Find the shortest path that ends alike: ``max_epochs`` → ``train_cfg.max_epochs``."""
    last = key.rpartition(".")[2]
    names = [s.name for s in _walk(_root(cfg)) if s.path and s.path[-1] == last]
    return sorted(names, key=lambda name: (name.count("."), name))[:1]


# --------------------------------------------------------------------------------------- checking


def check_config(cfg: Config) -> None:
    """Refuse a config with a misspelt key or an unknown ``type``, before anything is built.

    Every dict that will be built is compared with the signature of what its ``type`` names in the
    registry that will look it up, base classes included where ``**kwargs`` are handed on to them;
    the sections that mmengine reads itself (dataloaders, loops, ``env_cfg``, …) with what it reads.
    A top-level name that mmengine does not know is a user's helper variable, unless it looks like a
    misspelling of one that is absent. Values are not checked, but that hard negatives have an
    algorithm that takes them, and settings of hard negatives some to act on.

    Raises:
        InputError: With the dotted path of the first fault, and the nearest valid name.
    """
    for key in cfg:
        near = _nearest(key, {k: k for k in _TOP_KEYS if k not in cfg}, cutoff=0.85)
        if key not in (*_TOP_KEYS, *_TOOL_KEYS) and near:
            raise InputError(f"no config key '{key}'{_ask(near)}")
    _import_library(cfg.get("default_scope") or "mmengine", "default_scope")
    root = _root(cfg)
    for key in cfg:
        if key in (*_TOP_KEYS, *_TOOL_KEYS):
            for spot in _walk(_step(root, key)):
                _check_spot(spot)
    if "type" in (cfg.get("model") or {}):
        _check_hard_negatives(cfg)


def _check_hard_negatives(cfg: Config) -> None:
    """Refuse hard negatives that nobody takes, and settings of hard negatives that nobody makes."""
    model = cfg.model
    path = "model.data_preprocessor" if model.get("data_preprocessor") else "data_preprocessor"
    masker = (model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}).get("masker")
    if masker is not None and not (isinstance(masker, dict) and "type" in masker):
        raise InputError(
            f"{path}.masker has no 'type': take a config that has a masker, or write "
            "type='mmsalmask.SaliencyMasker'"
        )
    algorithm = _resolve(_step(_root(cfg), "model"), model.type)[0]
    takes, made = getattr(algorithm, "takes_hard_negatives", False), _made(masker)
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
    """How many hard negatives per image a masker makes that is built from this config."""
    if masker is None:
        return 0
    usual = inspect.signature(MODELS.get(masker["type"])).parameters.get("hard_negatives")
    return masker.get("hard_negatives", usual.default if usual else 0)


def _check_spot(spot: _Spot) -> None:
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
        _resolve(constructors, spot.value["constructor"])
    accepted = _accepted(spot)
    if not accepted:
        return
    for key in spot.value:
        if any(parameters.accepts(key) for parameters in accepted):
            continue
        owner, names, _ = accepted[0]
        near = _nearest(key, {name: name for name in names})
        known = _ask(near) or f"; it takes {', '.join(names) or 'nothing'}"
        raise InputError(f"{spot.name}: {owner} takes no '{key}'{known}")


def _check_hook_names(spot: _Spot) -> None:
    """A misspelt name would not replace mmengine's own hook but stand beside it."""
    for name in spot.value:
        absent = {k: f"default_hooks.{k}" for k in _DEFAULT_HOOKS if k not in spot.value}
        near = _nearest(name, absent, cutoff=0.85)
        if name not in _DEFAULT_HOOKS and near:
            raise InputError(f"no config key 'default_hooks.{name}'{_ask(near)}")


def _root(cfg: Config) -> _Spot:
    scope = cfg.get("default_scope") or "mmengine"
    return _Spot((), cfg._cfg_dict, None, None, False, (scope,))


def _walk(spot: _Spot) -> Iterator[_Spot]:
    yield spot
    if isinstance(spot.value, dict):
        foreign = str(spot.value.get("type")).rpartition(".")[2] in _ALBUMENTATIONS
        keys = [key for key in spot.value if not (foreign and key == "transforms")]
    elif isinstance(spot.value, list | tuple):
        keys = [str(index) for index in range(len(spot.value))]
    else:
        return
    for key in keys:
        yield from _walk(_step(spot, key))


def _step(spot: _Spot, key: str) -> _Spot:
    """Go from a value to one of its entries."""
    path = (*spot.path, key)
    if isinstance(spot.value, list | tuple):
        return spot._replace(path=path, value=spot.value[int(key)], outer=spot.value)
    value = spot.value[key]
    scopes = _scopes_inside(spot)
    registry = _registry_of(spot, key, value)
    if registry is None:
        return _Spot(path, value, spot.value, spot.registry, False, scopes)
    return _Spot(path, value, spot.value, registry, True, scopes)


def _registry_of(spot: _Spot, key: str, value: Any) -> Registry | None:
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


def _scopes_inside(spot: _Spot) -> tuple[str, ...]:
    """``_scope_`` switches the library; a class looks in its own library's registries as well."""
    first = spot.value.get("_scope_") or spot.scopes[0]
    name = spot.value.get("type")
    own = name.partition(".")[0] if isinstance(name, str) and "." in name else first
    return tuple(dict.fromkeys((first, *spot.scopes, own)))


# -------------------------------------------------------------------------------- what is accepted


def _accepted(spot: _Spot) -> list[Parameters]:
    """Return who may receive this dict; an empty list for a free dict that nobody is known to."""
    name = spot.value.get("type")
    if spot.path and spot.path[-1] in _UNREGISTERED:
        return _accepted_unregistered(spot)
    extra = _BUILDER_KEYS.get(spot.registry, ()) if spot.exact else ()
    if name is None:
        accepted = _accepted_section(spot)
    elif isinstance(name, str):
        accepted = [_parameters(part) for part in _resolve(spot, name)]
    else:
        accepted = [_parameters(name)]
    for ending, key in _LAYER_KEYS.items():
        if spot.name.endswith(ending):
            extra = (*extra, key)
    return [p._replace(names=tuple(dict.fromkeys((*p.names, *extra)))) for p in accepted]


def _accepted_unregistered(spot: _Spot) -> list[Parameters]:
    name = spot.value.get("type", "norm")
    if spot.path[-1] == "clip_grad":
        clips = {"norm": torch.nn.utils.clip_grad_norm_, "value": torch.nn.utils.clip_grad_value_}
        if name not in clips:
            raise InputError(f"{spot.name}: 'type' is {name!r}; it must be 'norm' or 'value'")
        return [_parameters(clips[name])]
    if spot.path[-1] == "roi_layer" and isinstance(name, str):
        layer = getattr(import_module("mmcv.ops"), name, None)
        if layer is None:
            near = _nearest(name, {n: n for n in import_module("mmcv.ops").__all__})
            raise InputError(f"{spot.name}: '{name}' is no operator of mmcv{_ask(near)}")
        return [_parameters(layer)]
    return []  # what an `nms` may hold depends on the values beside it


def _accepted_section(spot: _Spot) -> list[Parameters]:
    """Return what mmengine itself reads from a dict without ``type``."""
    path, value = spot.path, spot.value
    if not path:
        return [Parameters("a config", _TOP_KEYS)]
    if len(path) == 1 and path[0].endswith("_dataloader"):
        names = (
            *_parameters(DataLoader).names,
            "num_batch_per_epoch",
            "disable_subprocess_warning",
        )
        return [Parameters("a dataloader", names)]
    if path == ("train_cfg",):
        by_epoch = value.get("by_epoch", True)
        return [_parameters(EpochBasedTrainLoop if by_epoch else IterBasedTrainLoop)]
    if path == ("optim_wrapper",):
        # Without an optimizer it holds several wrappers, under names of the user's.
        return [_parameters(OptimWrapper)] if "optimizer" in value else []
    if path == ("optim_wrapper", "paramwise_cfg"):
        if "constructor" in spot.outer:
            return []
        return [Parameters("paramwise_cfg", _PARAMWISE_KEYS)]
    if path in (("val_evaluator",), ("test_evaluator",)) and "metrics" in value:
        return [_parameters(Evaluator)]
    section = _SECTIONS.get(path)
    if section is None:
        return []
    return [section if isinstance(section, Parameters) else _parameters(section)]


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


@functools.cache
def _parameters(part: Callable) -> Parameters:
    """Read off a class or function which keywords it takes.

    The ``**kwargs`` of an ``__init__`` are followed to its base classes when it hands them on, and
    to the names it takes out of them; where they go anywhere else, every name is accepted.
    """
    owner = getattr(part, "__name__", type(part).__name__)
    if not inspect.isclass(part) or part.__init__ is object.__init__:
        try:
            names, free = _keywords(inspect.signature(part))
        except (ValueError, TypeError):
            return Parameters(owner, (), free=True)
        return Parameters(owner, names, free)
    names: dict[str, None] = {}
    skip_to = None
    for base in part.__mro__:
        if base in (object, torch.nn.Module):
            break
        if skip_to is not None:
            skip_to = None if base.__name__ == skip_to else skip_to
            continue
        if "__init__" not in vars(base):
            continue
        try:
            own, free = _keywords(inspect.signature(vars(base)["__init__"]))
        except (ValueError, TypeError):
            return Parameters(owner, tuple(names), free=True)
        names |= dict.fromkeys(own)
        if not free:
            break
        taken, handed_on, after = _fate_of_kwargs(vars(base)["__init__"])
        names |= dict.fromkeys(taken)
        if not handed_on:
            return Parameters(owner, tuple(names), free=True)
        skip_to = after if after != base.__name__ else None
    return Parameters(owner, tuple(names))


def _keywords(signature: inspect.Signature) -> tuple[tuple[str, ...], bool]:
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    kinds = {name: parameter.kind for name, parameter in signature.parameters.items()}
    names = tuple(name for name, kind in kinds.items() if kind in named and name != "self")
    return names, inspect.Parameter.VAR_KEYWORD in kinds.values()


def _fate_of_kwargs(init: Callable) -> tuple[list[str], bool, str | None]:
    """Read where the ``**kwargs`` of an ``__init__`` go.

    Returns:
        The names it takes out of them; whether every other one reaches a base class's ``__init__``
        and nothing else; and ``Class`` where that is called as ``super(Class, self).__init__``.
    """
    try:
        definition = ast.parse(textwrap.dedent(inspect.getsource(init))).body[0]
    except (OSError, TypeError, SyntaxError):
        return [], False, None
    if not isinstance(definition, ast.FunctionDef) or definition.args.kwarg is None:
        return [], False, None
    parents = {child: node for node in ast.walk(definition) for child in ast.iter_child_nodes(node)}
    taken, to_base, elsewhere, after = [], False, False, None
    for node in ast.walk(definition):
        if not isinstance(node, ast.Name) or node.id != definition.args.kwarg.arg:
            continue
        parent = parents[node]
        name = _name_taken(parent, parents.get(parent))
        if name is not None:
            taken.append(name)
        elif isinstance(parent, ast.keyword) and _is_init(parents[parent].func):
            to_base, after = True, _class_in_super(parents[parent].func)
        elif not (isinstance(parent, ast.Attribute) and parent.attr == "update"):
            elsewhere = True
    return taken, to_base and not elsewhere, after


def _is_init(function: ast.AST) -> bool:
    return isinstance(function, ast.Attribute) and function.attr == "__init__"


def _class_in_super(function: ast.Attribute) -> str | None:
    arguments = getattr(function.value, "args", [])
    return arguments[0].id if arguments and isinstance(arguments[0], ast.Name) else None


def _name_taken(parent: ast.AST, grandparent: ast.AST | None) -> str | None:
    """``kwargs.pop('x')``, ``kwargs['x']`` and ``'x' in kwargs`` → ``x``."""
    constant = None
    if isinstance(parent, ast.Subscript):
        constant = parent.slice
    elif isinstance(parent, ast.Compare):
        constant = parent.left
    elif isinstance(parent, ast.Attribute) and parent.attr in ("pop", "get", "setdefault"):
        constant = grandparent.args[0] if getattr(grandparent, "args", None) else None
    value = getattr(constant, "value", None)
    return value if isinstance(value, str) else None


# ------------------------------------------------------------------------------------- registries


def _resolve(spot: _Spot, name: str) -> list[Callable]:
    """Return what ``name`` may mean here: one part, or several where the registry is not known."""
    prefix, _, bare = name.rpartition(".")
    if prefix and prefix not in _LIBRARIES and not _registered_scope(prefix):
        try:
            return [get_object_from_string(name) or _unknown(spot, name)]
        except ImportError:
            _unknown(spot, name)
    if prefix:
        _import_library(prefix, spot.name)
    scopes = (prefix,) if prefix else spot.scopes
    if spot.registry is not None:
        part = _find(spot.registry, bare, scopes, with_root=not prefix)
        if part is not None:
            return [part]
    if spot.registry is None or not spot.exact:
        everywhere = _all_registries(tuple(dict.fromkeys((*scopes, *spot.scopes))))
        found = [_find(registry, bare, scopes, with_root=not prefix) for registry in everywhere]
        if any(part is not None for part in found):
            return [part for part in dict.fromkeys(found) if part is not None]
        if bare.islower():
            return []  # a mode of whoever reads the dict, such as mmdet's `dict(type='dilation')`
    _unknown(spot, name)


def _find(root: Registry, name: str, scopes: tuple[str, ...], with_root: bool) -> Callable | None:
    for registry in _searched(root, scopes, with_root):
        registry.import_from_location()
        if name in registry.module_dict:
            return registry.module_dict[name]
    return None


def _searched(root: Registry, scopes: tuple[str, ...], with_root: bool) -> list[Registry]:
    searched = []
    for scope in scopes:
        _import_library(scope, "default_scope")
        if scope in (root.scope, "mmengine"):
            searched.append(root)
        elif scope in root.children:
            searched.append(root.children[scope])
    if with_root and root not in searched:
        searched.append(root)
    return searched


def _all_registries(scopes: tuple[str, ...]) -> list[Registry]:
    """Return mmengine's root registries, and the roots that the libraries have of their own."""
    modules = [roots, *(import_module(f"{s}.registry") for s in scopes if _import_library(s, ""))]
    found = [r for m in modules for r in vars(m).values() if isinstance(r, Registry)]
    return list(dict.fromkeys(registry for registry in found if registry.parent is None))


def _registered_scope(scope: str) -> bool:
    return any(scope in registry.children for registry in _all_registries(()))


@functools.cache
def _import_library(scope: str, path: str) -> bool:
    """Import a library's registries; False where it has none."""
    if find_spec(scope) is None:
        if _registered_scope(scope):
            return False
        near = _nearest(scope, {name: name for name in _LIBRARIES})
        if near and near != [scope]:
            raise InputError(f"{path}: no library is called '{scope}'{_ask(near)}")
        raise InputError(f"{path}: the library '{scope}' is not installed")
    if find_spec(f"{scope}.registry") is None:
        return False
    import_module(f"{scope}.registry")
    return True


def _unknown(spot: _Spot, name: str) -> None:
    root = spot.registry
    kind = "part" if root is None or not spot.exact else root.name.replace("_", " ")
    pool = {}
    for registry in _all_registries(()) if root is None else [root]:
        pool |= _display_names(registry, name, spot.scopes)
    bare = name.rpartition(".")[2]
    near = [written for written in pool.values() if written.rpartition(".")[2] == bare][:1]
    near = near or _nearest(name, pool, cutoff=0.7) or _nearest(bare, pool, cutoff=0.7)
    raise InputError(f"{spot.name}: '{name}' is not a registered {kind}{_ask(near)}")


def _display_names(root: Registry, name: str, scopes: tuple[str, ...]) -> dict[str, str]:
    """Map the names to compare with → as they are to be written here, most likely ones first."""
    wanted = name.rpartition(".")[0]
    order = dict.fromkeys((*([wanted] if wanted else []), *scopes, "mmengine", *_LIBRARIES))
    pool: dict[str, str] = {}
    for scope in order:
        registry = root if scope == "mmengine" else root.children.get(scope)
        if registry is None:
            continue
        registry.import_from_location()
        plain = not wanted and scope in (scopes[0], "mmengine")
        for bare in registry.module_dict:
            written = bare if plain or scope == "mmengine" else f"{scope}.{bare}"
            pool.setdefault(written if wanted else bare, written)
    return pool


# ---------------------------------------------------------------------------------------- wording


def _nearest(word: str, choices: dict[str, str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return the values whose keys look most like the word, whatever their case."""

    def likeness(choice: str) -> float:
        return difflib.SequenceMatcher(None, word.lower(), choice.lower()).ratio()

    ranked = sorted(((likeness(c), c) for c in choices), key=lambda pair: -pair[0])
    return [choices[choice] for ratio, choice in ranked[:count] if ratio >= cutoff]


def _ask(near: list[str]) -> str:
    if not near:
        return ""
    *others, last = (f"'{name}'" for name in near)
    return f": did you mean {', '.join(others)}{' or ' if others else ''}{last}?"
