"""Views have the distributions of the CPU pipelines: what is drawn, and the pixels of it."""

import math
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmpretrain.registry import TRANSFORMS
from scipy.stats import chisquare, kstest
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmsalmask.algorithms.preprocessor import build_augmentation
from mmsalmask.augmentation import (
    DeviceAugmentation,
    RandomView,
    crop_and_resize,
    gaussian_blur_each,
    jitter,
    solarize,
    to_grey,
)
from mmsalmask.data import read_image, read_whole
from mmsalmask.errors import InputError
from mmsalmask.saliency import BoundaryPriorSaliency

BASES = Path(__file__).resolve().parents[2] / "configs" / "_base_" / "datasets"
NUMBER = 6000
SIZES = torch.tensor([[30, 40]] * NUMBER)


@pytest.fixture(scope="module")
def draws():
    return RandomView().draw(SIZES, torch.Generator().manual_seed(0))


def within(values: torch.Tensor, low: float, high: float) -> float:
    """p-value of being uniform between the two."""
    return kstest(values.numpy(), "uniform", (low, high - low)).pvalue


def rate(flags: torch.Tensor, expected: float) -> bool:
    """Whether about so many are set: four standard errors."""
    error = math.sqrt(expected * (1 - expected) / len(flags))
    return abs(flags.float().mean().item() - expected) < 4 * error


def test_a_view_is_by_default_that_of_the_recipes_of_moco():
    written = dict(Config.fromfile(BASES / "device_views.py").mocov2_view)
    assert written.pop("type") == "mmsalmask.RandomView"
    assert vars(RandomView(**written, crop_aspect=(3 / 4, 4 / 3))) == vars(RandomView())


def test_probabilities_are_those_of_the_arguments(draws):
    assert rate(draws.flip, 0.5)
    assert rate(draws.grey, 0.2)
    assert rate(draws.sigma > 0, 0.5)
    assert rate((draws.factors != torch.tensor([1.0, 1.0, 1.0, 0.0])).any(1), 0.8)
    assert not draws.solarized.any()


def test_factors_and_sigma_are_uniform(draws):
    jittered = draws.factors[draws.factors[:, 3] != 0]
    for place, limits in enumerate([(0.6, 1.4)] * 3 + [(-0.1, 0.1)]):
        assert within(jittered[:, place], *limits) > 1e-3
    assert within(draws.sigma[draws.sigma > 0], 0.1, 2.0) > 1e-3


def test_every_order_is_equally_likely(draws):
    assert (draws.order.sort(1).values == torch.arange(4)).all()
    number = (draws.order * torch.tensor([64, 16, 4, 1])).sum(1)
    counts = np.unique(number.numpy(), return_counts=True)[1]
    assert len(counts) == 24
    assert chisquare(counts).pvalue > 1e-3


def test_what_is_drawn_for_an_image_tells_nothing_of_the_rest(draws):
    """Neither of another image nor of another step: no draw is used twice.

    Of boxes that leave room on both sides: without, there is one place only, whatever is drawn.
    """
    x0, y0, x1, y1 = draws.box.T
    roomy = ((40 - (x1 - x0)) >= 5) & ((30 - (y1 - y0)) >= 5)
    columns = torch.stack(
        [
            draws.flip.float(),
            draws.grey.float(),
            (draws.sigma > 0).float(),
            *draws.factors.T,
            draws.order[:, 0].float(),
            (x1 - x0) * (y1 - y0),
            x0 / (40 - (x1 - x0)),
            y0 / (30 - (y1 - y0)),
        ]
    )[:, roomy]
    number = columns.shape[1]
    assert number > 2000
    assert torch.corrcoef(columns).fill_diagonal_(0).abs().max() < 5 / math.sqrt(number)
    neighbours = torch.corrcoef(torch.cat([columns[:, 1:], columns[:, :-1]]))
    assert neighbours[:11, 11:].abs().max() < 5 / math.sqrt(number)


def test_strong_jitter_never_darkens_below_black():
    strong = RandomView(brightness=1.5).draw(SIZES, torch.Generator().manual_seed(0))
    assert strong.factors[:, 0].min() >= 0
    assert strong.factors[:, 0].max() > 2.4


# --------------------------------------------------------------------------------------- the pixels


def cpu_views(path: Path, base: str, size: int, number: int) -> np.ndarray:
    """Views of one photo by the pipeline of a config, RGB (number, size, size, 3)."""
    pipeline = Config.fromfile(BASES / base).view_pipeline
    pipeline[0].scale = size
    pipeline = Compose([TRANSFORMS.build(dict(part, _scope_="mmpretrain")) for part in pipeline])
    image = read_image(path)
    np.random.seed(5)
    random.seed(5)
    views = [pipeline({"img": image.copy()})["img"] for _ in range(number)]
    return np.stack(views)[..., ::-1].astype(np.float32)


def device_views(path: Path, settings: dict, size: int, number: int, stored: int) -> np.ndarray:
    settings = dict(settings, view=dict(settings["view"], size=size))
    augment = build_augmentation(settings)
    image, full = read_whole(path, stored)
    batch = 100
    images = image.flip(0).expand(batch, -1, -1, -1)
    generator = torch.Generator().manual_seed(6)
    views = []
    for _ in range(number // (2 * batch)):
        views += augment(images, torch.zeros(batch), torch.tensor([full] * batch), generator)[0]
    return torch.cat(views).permute(0, 2, 3, 1).numpy()


def describe(views: np.ndarray) -> dict[str, np.ndarray]:
    """Per view: mean colours of 4×4 cells, of which mean and covariance are taken; and more."""
    number, side = len(views), views.shape[1] // 4
    cells = views.reshape(number, 4, side, 4, side, 3).mean((2, 4)).reshape(number, -1)
    centred = views - views.mean((0, 1, 2))
    return {
        "cells": cells,
        "channels": np.einsum("nhwc,nhwd->ncd", centred, centred) / views.shape[1] ** 2,
        "across": np.square(np.diff(views, axis=2)).mean((1, 2, 3)),
        "down": np.square(np.diff(views, axis=1)).mean((1, 2, 3)),
    }


@pytest.mark.filterwarnings("ignore:Only use 'alpha'")
@pytest.mark.parametrize("name", ["mocov2", "simclr"])
def test_pixels_have_the_mean_and_covariance_of_the_pipeline_on_the_cpu(photos, name):
    """600 views of a photo each way. Means lie within 4.5 standard errors and two levels; the
    covariance of 48 cells' colours differs no more than two samples of one pipeline do, by 30 %;
    channel covariances agree to 4.5 standard errors and 3 %, differences of neighbours (what blur
    takes away) to 15 %, which is what squeezing this photo to 96 px may change.
    """
    number, size = 600, 64
    path = sorted(photos("coco-mini").rglob("*.jpg"))[0]
    settings = Config.fromfile(BASES / "device_views.py")[f"{name}_augment"]
    mine = describe(device_views(path, settings, size, number, stored=96))
    theirs = describe(cpu_views(path, f"{name}_views.py", size, number))
    for key, slack in (("cells", 0), ("channels", 0.03)):
        a, b = mine[key], theirs[key]
        error = np.sqrt(a.var(0) / number + b.var(0) / number)
        difference = np.abs(a.mean(0) - b.mean(0))
        assert (difference < 4.5 * error + slack * np.abs(b.mean(0))).all(), key
    overall = np.abs(mine["cells"].mean() - theirs["cells"].mean())
    assert overall < 2
    half = number // 2
    covariance = [np.cov(side["cells"].T) for side in (mine, theirs)]
    chance = np.linalg.norm(
        np.cov(theirs["cells"][:half].T) - np.cov(theirs["cells"][half:].T)
    ) / math.sqrt(2)
    assert np.linalg.norm(covariance[0] - covariance[1]) < 1.3 * chance
    for key in ("across", "down"):
        assert mine[key].mean() == pytest.approx(theirs[key].mean(), rel=0.15), key


# ----------------------------------------------------------------------------------- the two views


def photo_batch(number: int = 3, side: int = 40):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (number, 3, side, side), dtype=torch.uint8, generator=generator)
    return images, torch.arange(number) + 7, torch.tensor([[30, 60]] * number)


def test_a_seed_repeats_both_views_and_views_differ():
    augment = DeviceAugmentation(RandomView(size=16))
    runs = [augment(*photo_batch(), torch.Generator().manual_seed(s))[0] for s in (3, 3, 4)]
    assert all(torch.equal(*pair) for pair in zip(runs[0], runs[1], strict=True))
    assert not torch.equal(runs[0][0], runs[2][0])
    assert not torch.equal(*runs[0])
    torch.manual_seed(3)
    assert torch.equal(
        augment(*photo_batch())[0][0], runs[0][0]
    )  # the global one, if none is given


def test_crops_say_where_a_view_was_cut():
    """Without colours a view is its crop, cut out by the box that is told, flipped or not."""
    plain = RandomView(size=16, jitter_prob=0, grey_prob=0, blur_prob=0, interpolation="bilinear")
    images, index, sizes = photo_batch(8)
    views, crops = DeviceAugmentation(plain)(images, index, sizes, torch.Generator().manual_seed(0))
    assert {bool(f) for crop in crops for f in crop.flip} == {True, False}
    for view, crop in zip(views, crops, strict=True):
        assert torch.equal(crop.image, index)
        assert crop.box.dtype == torch.float32
        assert ((crop.box >= 0) & (crop.box <= 1)).all()
        pixels = crop.box * torch.tensor([60.0, 30.0, 60.0, 30.0])
        assert torch.allclose(pixels, pixels.round(), atol=1e-4)
        for image, cut, box, flip in zip(images, view, crop.box, crop.flip, strict=True):
            x0, y0, x1, y1 = (40 * box).tolist()
            around = image[
                :, math.floor(y0) : math.ceil(y1), math.floor(x0) : math.ceil(x1)
            ].float()
            mean = cut.mean((1, 2))
            assert torch.allclose(mean, around.mean((1, 2)), atol=12)
            left = cut[:, :, :4].mean((1, 2))
            edge = around[:, :, -5:] if flip else around[:, :, :5]
            other = around[:, :, :5] if flip else around[:, :, -5:]
            near, far = (left - edge.mean((1, 2))).norm(), (left - other.mean((1, 2))).norm()
            assert near < far + 10


def test_each_view_is_what_its_own_draws_say():
    """Image by image, step by step: groups and their order mix nothing up."""
    view = RandomView(size=16, solarize_prob=0.3)
    images, index, sizes = photo_batch(20)
    views, crops = DeviceAugmentation(view)(images, index, sizes, torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(2)
    for made, crop in zip(views, crops, strict=True):
        draws = view.draw(sizes, generator)
        full = torch.tensor([60.0, 30.0, 60.0, 30.0])
        assert torch.equal(crop.box, draws.box / full)
        assert torch.equal(crop.flip, draws.flip)
        box = draws.box * 40 / full
        for i, image in enumerate(made):
            one = slice(i, i + 1)
            expected = crop_and_resize(images[one], box[one], draws.flip[one], 16, "bicubic")
            expected = expected.clamp(0, 255)
            if draws.jittered[i]:
                expected = jitter(expected, draws.factors[one], draws.order[one])
            if draws.grey[i]:
                expected = to_grey(expected).expand(-1, 3, -1, -1)
            if draws.sigma[i]:
                expected = gaussian_blur_each(expected, draws.sigma[one], 2.0)
            if draws.solarized[i]:
                expected = solarize(expected)
            # Windows of a group are as large as its largest σ needs.
            assert torch.allclose(image, expected[0], atol=0.1)


def test_a_key_of_its_own_is_made_as_it_says():
    """BYOL: the first view always blurred, the second solarized, here without exception."""
    settings = dict(size=32, jitter_prob=0, grey_prob=0, flip_prob=0)
    always = RandomView(blur_prob=1, blur_sigma=(2, 2), **settings)
    solarized = RandomView(blur_prob=0, solarize_prob=1, **settings)
    (first, second), _ = DeviceAugmentation(always, solarized)(*photo_batch())
    assert second.max() <= 128
    assert first.diff(dim=-1).abs().mean() < second.diff(dim=-1).abs().mean() / 2


def objects_anywhere(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Bright squares on noise, uint8 (N, 3, 40, 40), and where they are, bool (N, 40, 40)."""
    random = torch.Generator().manual_seed(5)
    images = torch.randint(60, 100, (number, 3, 40, 40), dtype=torch.uint8, generator=random)
    inside = torch.zeros(number, 40, 40, dtype=torch.bool)
    corners = torch.randint(2, 26, (number, 2), generator=random).tolist()
    for where, (y, x) in zip(inside, corners, strict=True):
        where[y : y + 12, x : x + 12] = True
    return torch.where(inside[:, None], torch.tensor(240, dtype=torch.uint8), images), inside


def test_crops_lie_on_the_object_and_are_else_what_they_are_without():
    images, objects = objects_anywhere(64)
    batch = images, torch.arange(64), torch.tensor([[30, 60]] * 64)
    view = RandomView(size=16, crop_area=(0.2, 0.4))
    localized = partial(DeviceAugmentation, view, localizer=BoundaryPriorSaliency(20))
    ways = DeviceAugmentation(view), localized(places=1), localized(), localized()
    made = [augment(*batch, torch.Generator().manual_seed(1)) for augment in ways]
    for views, alike in zip(made[0][0] + made[2][0], made[1][0] + made[3][0], strict=True):
        assert torch.equal(views, alike)  # one place is no choice, and a seed repeats a choice
    shown = []
    for _, crops in (made[0], made[2]):
        boxes = torch.cat([crop.box for crop in crops])
        pairs = zip(objects.repeat(2, 1, 1), (40 * boxes).round().int().tolist(), strict=True)
        seen = [one[y0:y1, x0:x1].sum() / 144 for one, (x0, y0, x1, y1) in pairs]
        shown.append(torch.stack(seen).mean().item())
    assert shown[1] > shown[0] + 0.15
    for anywhere, placed in zip(made[0][1], made[2][1], strict=True):
        assert torch.equal(anywhere.flip, placed.flip)
        sides = [crop.box[:, 2:] - crop.box[:, :2] for crop in (anywhere, placed)]
        assert torch.allclose(*sides, atol=1e-6)
        assert (placed.box != anywhere.box).any(1).float().mean() > 0.5


def test_a_view_on_the_object_shows_what_its_crop_says():
    plain = RandomView(size=16, jitter_prob=0, grey_prob=0, blur_prob=0)
    batch = photo_batch(8)
    augment = DeviceAugmentation(plain, localizer=BoundaryPriorSaliency(20))
    for view, crop in zip(*augment(*batch), strict=True):
        expected = crop_and_resize(batch[0], 40 * crop.box, crop.flip, 16, "bicubic")
        assert torch.allclose(view, expected.clamp(0, 255), atol=0.1)


class CropsAlone(torch.nn.Module):
    needs = "crops"  # as a cache


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (dict(localizer="BoundaryPriorSaliency"), "build the localizer first"),
        (dict(localizer=CropsAlone()), "whole images, which CropsAlone does not"),
        (dict(localizer=torch.nn.Conv2d(3, 1, 1)), "Conv2d has weights that expect them normal"),
        (dict(localizer=BoundaryPriorSaliency(), places=0), "places must be an integer of at"),
    ],
)
def test_a_localizer_that_cannot_place_crops_is_refused(settings, says):
    with pytest.raises(InputError, match=says):
        DeviceAugmentation(RandomView(), **settings)


class DeviceCalls(TorchDispatchMode):
    """Counts what is called on the meta device, which has sizes but no values to read back."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.number += any(t.is_meta for t in tree_leaves(out) if isinstance(t, torch.Tensor))
        return out


@pytest.mark.parametrize("localizer", [None, BoundaryPriorSaliency(20)])
def test_nothing_waits_for_the_device_and_no_image_has_work_of_its_own(localizer):
    augment = DeviceAugmentation(RandomView(size=16, solarize_prob=0.2), localizer=localizer)
    calls = []
    for number in (24, 96):
        images, index, sizes = photo_batch(number)
        with DeviceCalls() as watched:
            views, crops = augment(images.to("meta"), index.to("meta"), sizes)
        assert all(part.is_meta for part in (*views, *(crop.box for crop in crops)))
        calls.append(watched.number)
    assert calls[1] <= calls[0]  # the first may upload a constant


def test_autocast_does_not_reach_the_pixels():
    augment, batch = DeviceAugmentation(RandomView(size=16)), photo_batch()
    plain = augment(*batch, torch.Generator().manual_seed(0))[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = augment(*batch, torch.Generator().manual_seed(0))[0]
    assert all(torch.equal(*pair) for pair in zip(plain, under, strict=True))
    assert under[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (dict(size=0), "size"),
        (dict(jitter_prob=1.2), "jitter_prob"),
        (dict(hue=0.6), "hue above 0.5"),
        (dict(contrast=-0.1), "contrast"),
        (dict(crop_area=(0.5, 1.5)), "crop_area"),
        (dict(blur_sigma=(2.0, 0.1)), "blur_sigma"),
        (dict(interpolation="lanczos"), "interpolation"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, says):
    with pytest.raises(InputError, match=says):
        RandomView(**settings)


def test_views_of_two_sizes_are_refused():
    with pytest.raises(InputError, match="one size, got 32 and 64"):
        DeviceAugmentation(RandomView(size=32), RandomView(size=64))


def test_views_of_two_interpolations_are_refused():
    with pytest.raises(InputError, match="one interpolation, got bicubic and bilinear"):
        DeviceAugmentation(RandomView(), RandomView(interpolation="bilinear"))
