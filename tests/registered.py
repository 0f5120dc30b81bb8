"""What tests need that go over all strategies and all localizers of the package.

The reference of a class in ``mmsalmask/masking/strategies/low_pass.py`` is the function
``reference`` of ``tests/masking/strategies/test_low_pass.py``; a localizer's lies likewise.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import torch

from mmsalmask.masking import SaliencyMasker, Strategy
from mmsalmask.saliency import BoundaryPriorSaliency, Crops, Localizer

TESTS = Path(__file__).resolve().parent


def of_the_package(family: type) -> list[type]:
    """The classes of a family that lie in the package; tests define others."""
    parts = family.registered().values()
    return [part for part in parts if part.__module__.startswith("mmsalmask.")]


STRATEGIES, LOCALIZERS = of_the_package(Strategy), of_the_package(Localizer)
# Those that look at the views through nothing but themselves.
WEIGHT_FREE = [p for p in LOCALIZERS if "map_size" in p.example and p.needs == "views"]


@cache
def reference_of(part: type) -> Callable:
    """The slow version of a part, from the formulas."""
    folder, name = part.__module__.removeprefix("mmsalmask.").replace(".", "/").rsplit("/", 1)
    file = TESTS / folder / f"test_{name}.py"
    assert file.is_file(), f"{part.__name__} has no slow reference: write it into {file}"
    spec = spec_from_file_location(f"reference_{name}", file)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert hasattr(module, "reference"), f"{part.__name__}: {file} has no function 'reference'"
    return module.reference


def example_of(part: type):
    """A small one, as its class says."""
    assert "example" in vars(part), f"{part.__name__} has no example: give it a class attribute"
    return part(**part.example)


def masker_for(strategy: Strategy, **options) -> SaliencyMasker:
    """A masker that can do what the strategy needs."""
    if strategy.mixes:
        options = {"hard_negatives": 0, **options}
    return SaliencyMasker(strategy, **{"localizer": BoundaryPriorSaliency(14), **options})


def some_views(number: int = 4, size: tuple[int, int] = (24, 26), seed: int = 0) -> torch.Tensor:
    """Views (N, 3, H, W) of slowly varying colours and noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(number, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bilinear")
    return smooth + 0.3 * torch.randn(number, 3, *size, generator=generator)


def scene(images=4, height=96, width=96, seed=0):
    """A textured, coloured square off the centre of a noisy gradient; values in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(0.2, 0.6, width).expand(images, 3, height, width)
    picture = ramp + 0.05 * torch.randn(images, 3, height, width, generator=generator)
    top, left = height // 2, width // 6
    patch = picture[:, :, top : top + height // 4, left : left + width // 4]
    patch[:, 0] += 0.3
    patch += 0.2 * torch.randn(patch.shape, generator=generator)
    return picture.clamp(0, 1)


def some_crops(number: int, images: int, seed: int = 0) -> Crops:
    """Crops of that many images."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(number, 2, generator=generator) * 0.5
    size = 0.2 + 0.3 * torch.rand(number, 2, generator=generator)
    return Crops(
        torch.randint(images, (number,), generator=generator),
        torch.cat([low, low + size], dim=1),
        torch.rand(number, generator=generator) < 0.5,
    )
