"""What a setting has to be, said in one sentence where it is not."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch

from mmsalmask.errors import InputError

# What a tensor of float32 can hold: a larger number would be infinite in it.
_LARGEST = (2 - 2**-23) * 2.0**127


def is_number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether it is a real number in [low, high] that is finite in float32, and no truth value."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    return real and abs(value) <= _LARGEST and low <= value <= high


def is_integer(value: Any, least: int) -> bool:
    """Whether it is an integer of at least ``least``, and no truth value."""
    return type(value) is int and value >= least


def check_integer(name: str, value: Any, least: int = 1) -> int:
    """The value, if :func:`is_integer`.

    Raises:
        InputError: for anything else.
    """
    if not is_integer(value, least):
        raise InputError(f"{name} must be an integer of at least {least}, got {value!r}")
    return value


def check_share(name: str, value: Any) -> float:
    """The value, if it is a number in [0, 1]: a share or a probability.

    Raises:
        InputError: for anything else.
    """
    if not is_number(value, 0, 1):
        raise InputError(f"{name} must lie in [0, 1], got {value!r}")
    return value


def check_flag(name: str, value: Any) -> bool:
    """The value, if it is True or False. Any word would count as true, even ``no``.

    Raises:
        InputError: for anything else.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, got {value!r}")
    return value


def check_device(name: str) -> torch.device:
    """The device, if tensors can be put there.

    Raises:
        InputError: this machine has no such device.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        raise InputError(
            f"--device {name}: PyTorch finds no such device here, only {', '.join(['cpu', *gpus])}"
        ) from error


def check_sides(name: str, value: Any, least: int) -> tuple[int, int]:
    """Rows and columns of a setting that is one integer, or one for each side.

    Raises:
        InputError: for anything else, and for less than ``least``.
    """
    sides = (value, value) if isinstance(value, int) else value
    if not is_pair(sides) or not all(is_integer(side, least) for side in sides):
        raise InputError(
            f"{name} must be an integer of at least {least}, or one for rows and one for columns, "
            f"got {value!r}"
        )
    return tuple(sides)


def check_positive_range(name: str, value: Any, most: float = math.inf) -> tuple[float, float]:
    """The ends of a range of positive numbers up to ``most``.

    Raises:
        InputError: for anything else, and for a reversed range.
    """
    fits = is_pair(value) and all(is_number(end, 0, most) for end in value)
    if not fits or not 0 < value[0] <= value[1]:
        limit = "" if most == math.inf else f" <= {most}"
        raise InputError(
            f"{name} must be a range (low, high) with 0 < low <= high{limit}, got {value!r}"
        )
    return tuple(value)


def check_part(name: str, config: Any) -> Any:
    """The config of a part inside of another, which a registry is to build.

    Raises:
        InputError: it is anything else.
    """
    if not isinstance(config, dict) or "type" not in config:
        raise InputError(f"{name} must be a dict with a 'type' of its own, got {config!r}")
    return config


def is_pair(value: Any) -> bool:
    """Whether it is a sequence of two, and no text."""
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2
