"""What holds for every localizer: its slow reference, shapes, symmetries, degenerate images."""

import numpy as np
import pytest
import torch
from localizers import roc_auc
from registered import (
    LOCALIZERS,
    WEIGHT_FREE,
    example_of,
    reference_of,
    scene,
    some_crops,
    some_views,
)

from mmsalmask.errors import InputError
from mmsalmask.masking import MeanFill, SaliencyMasker
from mmsalmask.saliency import Frozen, Localizer, foreground

every_localizer = pytest.mark.parametrize("part", LOCALIZERS, ids=lambda part: part.__name__)


@every_localizer
def test_what_it_locates_equals_the_slow_reference(part):
    localizer, views, crops = example_of(part), some_views(), some_crops(4, 4)
    grid = (3, 4)
    found = Frozen(localizer).locate(views, crops, grid)
    expected = reference_of(part)(localizer, views.double().numpy(), crops, grid)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-3, rtol=2e-3)
    assert found.flatten(1).std(1).min() > 1e-3


@every_localizer
def test_it_says_what_it_looks_at(part):
    localizer, crops = Frozen(example_of(part)), [some_crops(4, 4, seed) for seed in (0, 1)]
    views = [some_views(seed=seed) for seed in (0, 1)]
    first = localizer.locate(views[0], crops[0], (3, 4))
    other_views = localizer.locate(views[1], crops[0], (3, 4))
    other_crops = localizer.locate(views[0], crops[1], (3, 4))
    assert localizer.needs in ("views", "crops", "nothing")
    assert torch.equal(first, other_views) == (localizer.needs != "views")
    assert torch.equal(first, other_crops) == (localizer.needs != "crops")


@every_localizer
def test_a_masker_masks_by_it_and_keeps_it_out_of_its_tree(part):
    masker = SaliencyMasker(MeanFill(), example_of(part), grid=3)
    masked = masker(some_views(), some_views(seed=1), crops=(some_crops(4, 4), some_crops(4, 4, 1)))
    assert masked.query_foreground.any((1, 2)).all()
    assert masker.state_dict() == {}
    assert list(masker.modules()) == [masker]


class ForgetfulLocalizer(Localizer):
    """Without an example and without a reference."""


def test_a_localizer_without_a_reference_or_an_example_is_named(monkeypatch):
    assert Localizer.registered()["ForgetfulLocalizer"] is ForgetfulLocalizer
    with pytest.raises(AssertionError, match="ForgetfulLocalizer has no example"):
        example_of(ForgetfulLocalizer)
    monkeypatch.setattr(ForgetfulLocalizer, "__module__", "mmsalmask.saliency.localizers.forgetful")
    with pytest.raises(AssertionError, match=r"ForgetfulLocalizer has no slow .*test_forgetful"):
        reference_of(ForgetfulLocalizer)


# ------------------------------------------------------------- those without weights, at any size


@pytest.mark.parametrize("localizer", WEIGHT_FREE)
@pytest.mark.parametrize("size", [(96, 96), (97, 61), (20, 33), (2, 2), (300, 40)])
def test_any_size_gives_a_finite_map_of_the_asked_size(localizer, size):
    for map_size in (14, 33):
        saliency = localizer(map_size)(scene(2, *size))
        assert saliency.shape == (2, map_size, map_size)
        assert saliency.dtype == torch.float32
        assert saliency.isfinite().all()


@pytest.mark.parametrize("localizer", WEIGHT_FREE)
def test_the_map_of_an_image_does_not_depend_on_its_batch(localizer):
    images = torch.cat([scene(3), torch.zeros(1, 3, 96, 96), torch.full((1, 3, 96, 96), 1e3)])
    together = localizer()(images)
    alone = torch.cat([localizer()(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    broken = images.clone()
    broken[1] = torch.nan
    rest = [0, 2, 3, 4]
    torch.testing.assert_close(localizer()(broken)[rest], alone[rest], rtol=1e-4, atol=1e-4)
    assert not foreground(localizer()(broken))[1].any()


@pytest.mark.parametrize("localizer", WEIGHT_FREE)
@pytest.mark.parametrize("dims", [(-1,), (-2,), (-2, -1)])
def test_flipping_the_image_flips_the_map(localizer, dims):
    images = scene(3, 90, 75)
    expected = localizer()(images).flip(dims)
    torch.testing.assert_close(localizer()(images.flip(dims)), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("localizer", WEIGHT_FREE)
def test_one_pixel_a_single_grey_level_off_is_found(localizer):
    images = torch.full((1, 3, 96, 96), 0.5)
    images[:, :, 60, 30] += 1 / 255
    saliency = localizer(28)(images)
    assert saliency.isfinite().all()
    place = saliency.flatten().argmax().item()
    assert abs(place // 28 - 60 * 28 // 96) <= 1
    assert abs(place % 28 - 30 * 28 // 96) <= 1


@pytest.mark.parametrize("localizer", WEIGHT_FREE)
def test_autocast_changes_nothing(localizer):
    images = scene(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = localizer()(images)
    assert torch.equal(inside, localizer()(images))


@pytest.mark.parametrize("localizer", WEIGHT_FREE)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_images_give_the_map_of_their_float32_copy(localizer, dtype):
    images = scene(3).to(dtype)
    assert torch.equal(localizer()(images), localizer()(images.float()))


@pytest.mark.parametrize("localizer", WEIGHT_FREE)
@pytest.mark.gpu
def test_cuda_and_cpu_agree(localizer):
    images = scene(4, 90, 75)
    actual = localizer()(images.cuda()).cpu()
    torch.testing.assert_close(actual, localizer()(images), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("localizer", WEIGHT_FREE)
def test_images_of_another_shape_are_refused(localizer):
    for shape in [(3, 32, 32), (2, 0, 32, 32), (2, 3, 1, 32)]:
        with pytest.raises(InputError, match=r"shape \(N, C, H, W\)"):
            localizer()(torch.zeros(shape))
    with pytest.raises(InputError, match="map_size"):
        localizer(2)


# ------------------------------------------------------------------------------------- the score


def test_the_rank_based_auc_equals_counting_all_pairs():
    random = np.random.default_rng(0)
    for levels in (1, 2, 3, 10, 10**6):
        for size in (2, 5, 49):
            scores = random.integers(0, levels, size).astype(float)
            truth = random.random(size) < 0.4
            truth[0], truth[-1] = True, False
            wins = [
                1.0 if a > b else 0.5 if a == b else 0.0
                for a in scores[truth]
                for b in scores[~truth]
            ]
            assert roc_auc(scores, truth) == pytest.approx(sum(wins) / len(wins), abs=1e-12)
