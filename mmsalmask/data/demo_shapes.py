"""The shapes of the demo set's objects, by which alone its classes differ."""

import math

import numpy as np

# Shapes: the outlines (K, 2) to fill and, after them, those to cut out, all about within the unit
# circle around the origin.
Outlines = tuple[list[np.ndarray], list[np.ndarray]]


def _circle(centre: tuple[float, float], radius: float) -> np.ndarray:
    angle = np.linspace(0.0, 2.0 * math.pi, 64, endpoint=False)
    return np.stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)], 1)


def _regular(corners: int, inner: float | None = None) -> np.ndarray:
    """Corners of a regular polygon, or of a star when ``inner`` gives its inner radius."""
    count = corners if inner is None else 2 * corners
    angle = 2.0 * math.pi * np.arange(count) / count
    radius = np.ones(count)
    if inner is not None:
        radius[1::2] = inner
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def _box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def _disk() -> Outlines:
    return [_circle((0, 0), 0.9)], []


def _ring() -> Outlines:
    return [_circle((0, 0), 1.0)], [_circle((0, 0), 0.58)]


def _square() -> Outlines:
    return [_box(-0.75, -0.75, 0.75, 0.75)], []


def _triangle() -> Outlines:
    return [_regular(3) * 1.05], []


def _star() -> Outlines:
    return [_regular(5, inner=0.42) * 1.05], []


def _cross() -> Outlines:
    return [_box(-0.95, -0.28, 0.95, 0.28), _box(-0.28, -0.95, 0.28, 0.95)], []


def _crescent() -> Outlines:
    return [_circle((0, 0), 1.0)], [_circle((0.5, 0), 0.78)]


def _bars() -> Outlines:
    lefts = (-0.8, -0.34, 0.12, 0.58)
    return [_box(left, -0.8, left + 0.24, 0.8) for left in lefts], []


def _dots() -> Outlines:
    return [_circle((0, 0), 0.3), *(_circle(tuple(c), 0.3) for c in 0.7 * _regular(6))], []


def _comb() -> Outlines:
    teeth = [_box(-0.6, top, 0.75, top + 0.3) for top in (-0.85, -0.15, 0.55)]
    return [_box(-0.75, -0.85, -0.4, 0.85), *teeth], []


SHAPES = {
    "disk": _disk,
    "ring": _ring,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "crescent": _crescent,
    "bars": _bars,
    "dots": _dots,
    "comb": _comb,
}
