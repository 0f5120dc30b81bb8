"""Check the values that mmengine and torch take without a check.

Parts of this project check their own settings when they are built. These values would end in a
traceback from inside a library, or in a run that learns nothing.
"""

import logging
import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

from mmengine.config import Config

from mmsalmask.checks import check_flag, check_integer, check_part, is_integer, is_number
from mmsalmask.config.registries import resolve
from mmsalmask.config.spots import Spot, root_of, step, walk
from mmsalmask.errors import InputError

_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
_TOGETHER = (
    ("train_dataloader", "train_cfg", "optim_wrapper"),
    ("val_dataloader", "val_cfg", "val_evaluator"),
    ("test_dataloader", "test_cfg", "test_evaluator"),
)
_LEVELS = [logging.getLevelName(level) for level in range(10, 51, 10)]


def check_values(cfg: Config) -> None:
    """Refuse values of a config that cannot work, before anything is built.

    Raises:
        InputError: With the dotted path of the first one, and what it has to be.
    """
    if "model" in cfg and not isinstance(cfg.model, dict):
        raise InputError(f"model must be a dict with a 'type', got {cfg.model!r}")
    for path, check in _RULES.items():
        *holders, key = path.split(".")
        section = cfg
        for holder in holders:
            section = section.get(holder) if isinstance(section, dict | Config) else None
        if not isinstance(section, dict | Config) or key not in section:
            continue
        if section[key] is not None or path not in _OPTIONAL:
            check(path, section[key])
    logger = (cfg.get("default_hooks") or {}).get("logger") or {}
    if "interval" in logger:
        check_integer("default_hooks.logger.interval", logger["interval"])
    for name, optimizer in optimizers(cfg):
        _check_momentum(f"{name}.momentum", optimizer.get("momentum", 0))
        for key in ("lr", "weight_decay", "dampening"):
            if key in optimizer:
                _check_step_size(f"{name}.{key}", optimizer[key])
        check_flag(f"{name}.nesterov", optimizer.get("nesterov", False))
    for spot in _parts(cfg, "param_scheduler"):
        if spot.value.get("T_max") is not None:
            check_integer(f"{spot.name}.T_max", spot.value["T_max"])
    for spot in _parts(cfg, "model"):
        _check_depth(spot)


def check_together(cfg: Config) -> None:
    """Refuse a part of a training, validation or test of which mmengine wants the others, too.

    Raises:
        InputError: names the part that is missing.
    """
    for parts in _TOGETHER:
        given = [part for part in parts if cfg.get(part) is not None]
        if given and len(given) < len(parts):
            absent = next(part for part in parts if part not in given)
            raise InputError(
                f"{absent} is missing beside {given[0]}: give all of {', '.join(parts)}, or none"
            )


def optimizers(cfg: Config) -> Iterator[tuple[str, dict]]:
    """The settings of each optimizer of a config, with their dotted path."""
    for spot in _parts(cfg, "optim_wrapper"):
        if spot.path[-1] == "optimizer":
            yield spot.name, spot.value


def _parts(cfg: Config, key: str) -> Iterator[Spot]:
    """All dicts in an entry of the config."""
    if cfg.get(key) is not None:
        yield from (s for s in walk(step(root_of(cfg), key)) if isinstance(s.value, dict))


def _check_momentum(name: str, value: Any) -> None:
    if not is_number(value, 0, 1) or value == 1:
        raise InputError(
            f"{name} must be at least 0 and below 1 (usually 0.9), got {value!r}: weights "
            "would diverge"
        )


def _check_step_size(name: str, value: Any) -> None:
    if not is_number(value, 0):
        raise InputError(f"{name} must be a finite number of at least 0, got {value!r}")


def _check_depth(spot: Spot) -> None:
    """Refuse a depth that the backbone does not list among its ``arch_settings``."""
    name = spot.value.get("type")
    if "depth" not in spot.value or not isinstance(name, str):
        return
    for part in resolve(spot, name):
        depths = getattr(part, "arch_settings", None)
        if isinstance(depths, dict) and spot.value["depth"] not in [*depths]:
            raise InputError(
                f"{spot.name}.depth is {spot.value['depth']!r}, but {name} comes in depths "
                f"{', '.join(map(str, depths))}"
            )


def _check_clip(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise InputError(
            f"{name} must be a dict such as dict(max_norm=1.0), got {value!r}; on the command line "
            f"{name}.max_norm=1.0"
        )


def _check_workers(name: str, value: Any) -> None:
    check_integer(name, value, 0)


def _check_seed(name: str, value: Any) -> None:
    if not is_integer(value, 0) or value >= 2**32:
        raise InputError(f"{name} must be an integer from 0 to 2**32 - 1, got {value!r}")


def _check_level(name: str, value: Any) -> None:
    if value not in _LEVELS and not is_integer(value, 0):
        raise InputError(f"{name} must be one of {', '.join(_LEVELS)}, got {value!r}")


def _check_start_method(name: str, value: Any) -> None:
    methods = multiprocessing.get_all_start_methods()
    if value not in methods:
        raise InputError(f"{name} must be one of {', '.join(methods)}, got {value!r}")


_RULES: dict[str, Callable[[str, Any], Any]] = {
    **{f"{loader}.batch_size": check_integer for loader in _LOADERS},
    **{f"{loader}.num_workers": _check_workers for loader in _LOADERS},
    "train_cfg.max_epochs": check_integer,
    "train_cfg.max_iters": check_integer,
    "train_cfg.val_interval": check_integer,
    "optim_wrapper.optimizer": check_part,
    "optim_wrapper.accumulative_counts": check_integer,
    "optim_wrapper.clip_grad": _check_clip,
    "env_cfg.mp_cfg.mp_start_method": _check_start_method,
    "randomness.seed": _check_seed,
    "fast_step": check_flag,
    "compile_encoders": check_flag,
    "log_level": _check_level,
}
# Where None stands for "without", as mmengine reads it.
_OPTIONAL = (
    "optim_wrapper.optimizer",
    "optim_wrapper.clip_grad",
    "env_cfg.mp_cfg.mp_start_method",
    "randomness.seed",
    "fast_step",
    "compile_encoders",
)
