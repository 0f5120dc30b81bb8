"""What a setting has to be, said in one sentence where it is not."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from mmsalmask.errors import InputError


def is_number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether it is a finite real number in [low, high], and no truth value."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    return real and math.isfinite(value) and low <= value <= high


def check_sides(name: str, value: Any, least: int) -> tuple[int, int]:
    """Rows and columns of a setting that is one integer, or one for each side.

    Raises:
        InputError: for anything else, and for less than ``least``.
    """
    sides = (value, value) if isinstance(value, int) else value
    pair = isinstance(sides, Sequence) and not isinstance(sides, str) and len(sides) == 2
    if not pair or not all(type(side) is int and side >= least for side in sides):
        raise InputError(
            f"{name} must be an integer of at least {least}, or one for rows and one for columns, "
            f"got {value!r}"
        )
    return tuple(sides)
