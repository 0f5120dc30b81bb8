"""Any value of a setting works or is refused in a sentence: no crash, no NaN without a word."""

import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from registered import LOCALIZERS, STRATEGIES, some_crops

from mmsalmask.algorithms.heads import HardNegativeContrastiveHead, NTXentHead
from mmsalmask.errors import InputError
from mmsalmask.losses import info_nce, nt_xent
from mmsalmask.masking import MeanFill, SaliencyMasker, gaussian_blur, noise_fill
from mmsalmask.saliency import BoundaryPriorSaliency, Frozen, foreground

# Numbers of any size would only test the machine's memory where they are numbers of views or cells.
NUMBERS = st.integers(-3, 40) | st.booleans() | st.floats(allow_nan=True, allow_infinity=True)
ANYTHING = st.recursive(
    NUMBERS | st.none() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=3,
)


def images(number: int = 2, size: int = 24) -> torch.Tensor:
    return torch.rand(number, 3, size, size, generator=torch.Generator().manual_seed(0))


def rows(*shape: int) -> torch.Tensor:
    return F.normalize(torch.rand(*shape, generator=torch.Generator().manual_seed(1)), dim=-1)


def masked(**options) -> torch.Tensor:
    parts = dict(strategy=MeanFill(), localizer=BoundaryPriorSaliency(8), grid=3)
    if getattr(options.get("strategy"), "mixes", False):
        options["hard_negatives"] = 0
    found = SaliencyMasker(**{**parts, **options})(images(), images().flip(-1))
    return torch.stack([found.query, found.key])


def filled(strategy: type):
    def fill(**options) -> torch.Tensor:
        return masked(strategy=strategy(**{**strategy.example, **options}))

    return fill


def located(localizer: type):
    def locate(**options) -> torch.Tensor:
        frozen = Frozen(localizer(**{**localizer.example, **options}))
        return frozen.locate(images(), some_crops(2, 4), (2, 2))

    return locate


def settings_of(part: type) -> list[str]:
    """Its arguments, but those that are no values: nets and tensors."""
    no_values = (torch.nn.Module, torch.Tensor)
    names = inspect.signature(part).parameters
    return [name for name in names if not isinstance(part.example.get(name), no_values)]


def built(head: type):
    def build(**options) -> torch.Tensor:
        head(**options)
        return torch.zeros(1)

    return build


def contrast(**options) -> torch.Tensor:
    return info_nce(rows(4, 8), rows(4, 8), rows(6, 8), rows(4, 2, 8), **options)


SETTINGS = [
    (masked, ("grid", "offset", "query_ratio", "hard_negative_ratio", "masked_views", "patches")),
    (masked, ("hard_negatives", "local_crops")),
    *((filled(part), settings_of(part)) for part in STRATEGIES),
    *((located(part), settings_of(part)) for part in LOCALIZERS),
    (lambda **options: noise_fill(images(), **options), ("std",)),
    (lambda sigma: gaussian_blur(images(), 3, sigma), ("sigma",)),
    (lambda kernel_size: gaussian_blur(images(), kernel_size, 1.0), ("kernel_size",)),
    (lambda **options: foreground(images()[:, 0], **options).float(), ("offset",)),
    (contrast, ("penalty", "temperature")),
    (
        lambda **options: nt_xent(rows(4, 8), rows(4, 8), rows(4, 2, 8), **options),
        ("penalty", "temperature"),
    ),
    (built(HardNegativeContrastiveHead), ("penalty", "temperature")),
    (built(NTXentHead), ("penalty", "temperature")),
]


@pytest.mark.parametrize(
    ("function", "name"), [(function, name) for function, names in SETTINGS for name in names]
)
@given(value=ANYTHING)
@settings(max_examples=25, deadline=None)
def test_a_value_works_or_is_refused(function, name, value):
    extreme = isinstance(value, float) and not 1e-3 < abs(value) < 1e3
    try:
        found = function(**{name: value})
    except InputError:
        return
    # Infinite where float32 ends, by a number that no one means; never a NaN.
    assert found.isfinite().all() or (extreme and math.isfinite(value))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "0.2", None, True, [0.2]])
@pytest.mark.parametrize(("function", "name"), [(contrast, "penalty")])
def test_what_is_no_finite_number_is_refused(function, name, value):
    with pytest.raises(InputError, match=name):
        function(**{name: value})
