"""Any value of a setting works or is refused in a sentence: no crash, no NaN without a word."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsalmask.algorithms.heads import HardNegativeContrastiveHead, NTXentHead
from mmsalmask.errors import InputError
from mmsalmask.losses import info_nce, nt_xent
from mmsalmask.masking import (
    FeatheredMean,
    HighPassNoise,
    LowPass,
    MeanFill,
    OtherImage,
    SaliencyMasker,
    StrongBlur,
    gaussian_blur,
    noise_fill,
)
from mmsalmask.saliency import BoundaryPriorSaliency, SpectralResidualSaliency, foreground

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
    if isinstance(options.get("strategy"), OtherImage):
        options["hard_negatives"] = 0
    found = SaliencyMasker(**{**parts, **options})(images(), images().flip(-1))
    return torch.stack([found.query, found.key])


def filled(strategy: type):
    def fill(**options) -> torch.Tensor:
        return masked(strategy=strategy(**{**_KERNELS.get(strategy, {}), **options}))

    return fill


def built(head: type):
    def build(**options) -> torch.Tensor:
        head(**options)
        return torch.zeros(1)

    return build


def contrast(**options) -> torch.Tensor:
    return info_nce(rows(4, 8), rows(4, 8), rows(6, 8), rows(4, 2, 8), **options)


_KERNELS = {HighPassNoise: dict(kernel_size=5), StrongBlur: dict(kernel_size=5)}
SETTINGS = [
    (masked, ("grid", "offset", "query_ratio", "hard_negative_ratio", "masked_views", "patches")),
    (masked, ("hard_negatives",)),
    (filled(HighPassNoise), ("kernel_size", "sigma", "query_std", "hard_negative_std")),
    (filled(HighPassNoise), ("focal_prob", "channel_prob")),
    (filled(StrongBlur), ("kernel_size", "sigma", "focal_prob", "channel_prob")),
    (filled(MeanFill), ("focal_prob", "channel_prob")),
    (filled(LowPass), ("cells", "focal_prob", "channel_prob")),
    (filled(FeatheredMean), ("ramp", "focal_prob", "channel_prob")),
    (filled(OtherImage), ("with_clean", "focal_prob", "channel_prob")),
    (lambda **options: noise_fill(images(), **options), ("std",)),
    (lambda sigma: gaussian_blur(images(), 3, sigma), ("sigma",)),
    (lambda kernel_size: gaussian_blur(images(), kernel_size, 1.0), ("kernel_size",)),
    (lambda **options: foreground(images()[:, 0], **options).float(), ("offset",)),
    (lambda **options: BoundaryPriorSaliency(**options)(images()), ("map_size",)),
    (lambda **options: SpectralResidualSaliency(**options)(images()), ("map_size",)),
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
