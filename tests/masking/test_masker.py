import numpy as np
import pytest
import references
import registered
import torch
from registered import example_of, masker_for
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mmsalmask.errors import InputError
from mmsalmask.masking import (
    HighPassNoise,
    MeanFill,
    SaliencyMasker,
    Strategy,
    StrongBlur,
    blur_fill,
    high_pass,
    mask_ratios,
    mean_fill,
)
from mmsalmask.masking.views import paired

STRATEGIES = [example_of(part) for part in registered.STRATEGIES]
of_every_strategy = pytest.mark.parametrize(
    "strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__
)
PATCHES_ONLY = HighPassNoise(focal_prob=0.0, channel_prob=0.0)


class CornerObject(nn.Module):
    """A localizer that finds the object in the upper left corner, 81 of 196 patches."""

    def forward(self, images):
        saliency = images.new_zeros(len(images), 14, 14)
        saliency[:, :9, :9] = 1.0
        return saliency


class Nothing(nn.Module):
    def forward(self, images):
        return images.new_ones(len(images), 14, 14)


def views(number=6, size=(64, 64), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(number, 3, *size, generator=generator),
        torch.randn(number, 3, *size, generator=generator),
    )


def test_views_are_paired_without_a_copy_only_where_one_follows_the_other():
    both, other = (torch.randn(8, 3, 4, 4) for _ in range(2))
    assert paired(both[:4], both[4:]).data_ptr() == both.data_ptr()
    for query, key in ((both[:4], other[4:]), (both[4:], both[:4]), (both[:4], both[:4])):
        assert torch.equal(paired(query, key), torch.cat([query, key]))


def masker(strategy=None, localizer=None, **options):
    return SaliencyMasker(strategy or MeanFill(), localizer or CornerObject(), **options)


# Strategies that paste as all do, and whose keys and hard negatives can be masked.
PLAIN = [s for s in STRATEGIES if type(s).paste is Strategy.paste and not s.mixes]


@pytest.mark.parametrize("strategy", PLAIN, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("size", [(64, 64), (45, 67)])
def test_only_masked_pixels_change_and_the_key_stays_clean(strategy, size):
    query, key = views(size=size)
    masked = masker(strategy)(query, key)
    seen_query, seen_key = strategy.see(query), strategy.see(key)
    assert torch.equal(masked.key, seen_key)
    assert masked.key_mask is None
    (hard,), (hard_mask,) = masked.hard_negatives, masked.hard_negative_masks
    for view, mask, seen in (
        (masked.query, masked.query_mask, seen_query),
        (hard, hard_mask, seen_key),
    ):
        mask = mask.expand_as(view)
        assert torch.equal(view[~mask], seen[~mask])
        assert (view[mask] != seen[mask]).float().mean() > 0.99
        assert mask.flatten(1).any(1).all()


def test_views_of_the_high_pass_strategy_are_filtered_and_of_the_others_are_not():
    query, key = views()
    assert torch.equal(masker(HighPassNoise())(query, key).key, high_pass(key))
    assert torch.equal(masker(StrongBlur())(query, key).key, key)
    assert torch.equal(masker(MeanFill())(query, key).key, key)


def test_masked_pixels_show_the_views_own_mean_or_its_blur():
    query, key = views()
    for strategy, fill in ((MeanFill(), mean_fill), (StrongBlur(), blur_fill)):
        masked = masker(strategy)(query, key)
        for view, mask, seen in (
            (masked.query, masked.query_mask, query),
            (masked.hard_negatives[0], masked.hard_negative_masks[0], key),
        ):
            mask = mask.expand_as(view)
            assert torch.equal(view[mask], fill(seen).expand_as(view)[mask])
    mean = mean_fill(query)
    assert mean.shape == (6, 3, 1, 1)
    assert np.allclose(mean[2, 1].item(), query[2, 1].numpy().mean(), atol=1e-6)


def test_noise_has_its_strength_and_is_drawn_for_every_image_anew():
    query, key = torch.zeros(64, 3, 64, 64), torch.zeros(64, 3, 64, 64)
    masked = masker(PATCHES_ONLY, query_ratio=(1, 1), hard_negative_ratio=(1, 1))(query, key)
    inside = masked.hard_negative_masks[0].expand_as(key)
    assert abs(masked.query.std() - 0.18) < 0.002
    assert abs(masked.hard_negatives[0][inside].std() - 0.14) < 0.002
    assert abs(masked.query.mean()) < 0.002
    # The released code shares one tile of noise over the batch.
    assert not torch.equal(masked.query[0], masked.query[1])
    assert abs(torch.corrcoef(masked.query.flatten(1)[:2])[0, 1]) < 0.05


def test_every_hard_negative_is_made_of_its_own_key():
    # The released code lets one single image serve the whole batch.
    query, key = views(number=8)
    (hard,) = masker(MeanFill())(query, key).hard_negatives
    distance = (hard[:, None] - key[None]).abs().mean((2, 3, 4))
    assert torch.equal(distance.argmin(1), torch.arange(8))


def test_query_masks_are_balanced_and_hard_negatives_hide_the_object_alone():
    query, key = views(number=512, size=(28, 28))
    options = dict(grid=14, query_ratio=(0.2, 0.2), hard_negative_ratio=(0.6, 0.6))
    masked = masker(shares="paper", **options)(query, key)
    lost, lost_behind = mask_ratios(masked.query_mask, masked.query_foreground)
    # 81 of 196 patches are foreground: n = 39, of which round(0.2·81) = 16.
    assert lost.item() == pytest.approx(16 / 81)
    assert lost_behind.item() == pytest.approx(23 / 115)
    hidden, behind = mask_ratios(masked.hard_negative_masks[0], masked.key_foreground)
    assert hidden.item() == pytest.approx(49 / 81)
    assert behind.item() == 0.0
    # Without the paper's rounding, the share itself.
    masked = masker(**options)(query, key)
    for lost in mask_ratios(masked.query_mask, masked.query_foreground):
        assert lost.item() == pytest.approx(0.2, abs=0.001)


def test_ratios_are_uniform_in_their_range_per_image():
    query, key = views(number=2000, size=(14, 14))
    masked = masker(PATCHES_ONLY, Nothing(), grid=14, query_ratio=(0.05, 0.25))(
        query.repeat(1, 1, 1, 1), key
    )
    share = masked.query_mask.float().mean((1, 2, 3))
    assert 0.045 <= share.min() < 0.06
    assert 0.24 < share.max() <= 0.25 + 1 / 196
    assert abs(share.mean() - 0.15) < 0.004
    assert abs(share.std() - 0.2 / 12**0.5) < 0.003


def test_shapes_of_masks_come_in_their_published_shares():
    number = 4000
    query, key = views(number=number, size=(28, 28))
    strategy = HighPassNoise(kernel_size=3, sigma=1.0)
    draws = torch.Generator().manual_seed(0)
    masked = masker(strategy, Nothing(), query_ratio=(0.2, 0.2))(query, key, draws)
    for mask, focal_share in (
        (masked.query_mask, 1 - (25 / 28) ** 2),
        (masked.hard_negative_masks[0], (16 / 28) ** 2),
    ):
        same = (mask[:, 0] == mask[:, 1]).flatten(1).all(1)
        same &= (mask[:, 0] == mask[:, 2]).flatten(1).all(1)
        area = mask[:, 0].float().mean((1, 2))
        focal = same & ((area - focal_share).abs() < 1e-6)
        assert abs(focal.float().mean() - 0.2) < 0.02
        assert abs((same & ~focal).float().mean() - 0.8 * 0.3) < 0.02
        assert abs((~same).float().mean() - 0.8 * 0.7) < 0.02


def test_focal_masks_keep_a_window_of_the_query_and_lose_one_of_the_hard_negative():
    query, key = views(number=50, size=(112, 112))
    focal = HighPassNoise(focal_prob=1.0, channel_prob=0.0)
    masked = masker(focal, shares="paper")(query, key)
    kept, lost = ~masked.query_mask, masked.hard_negative_masks[0]
    assert kept.shape == (50, 1, 112, 112)
    for window, side in ((kept, 100), (lost, 65)):
        assert (window.any(3).sum(2) == side).all()
        assert (window.any(2).sum(2) == side).all()
        assert (window.sum((1, 2, 3)) == side * side).all()


def test_focal_windows_of_hard_negatives_take_the_foreground_alone():
    _, key = views(number=40, size=(45, 67))
    maker = masker(HighPassNoise(focal_prob=1.0))
    where = torch.rand(40, 7, 7, generator=torch.Generator().manual_seed(0)) < 0.5
    where[:5] = False
    windows, masks = (
        maker.harden(maker.strategy.see(key), side, torch.Generator().manual_seed(1))[1]
        for side in (torch.ones_like(where), where)
    )
    for window, mask, side in zip(windows.numpy(), masks.numpy(), where.numpy(), strict=True):
        for channel in range(3):
            expected = references.hard_focal_mask(window[channel], side)
            assert np.array_equal(mask[channel], expected)
    assert mask_ratios(masks[5:], where[5:])[1] == 0


def test_without_information_the_object_is_nowhere_and_masks_are_random():
    query, key = views(number=300, size=(28, 28))
    masked = masker(localizer=Nothing(), query_ratio=(0.25, 0.25))(query, key)
    assert not masked.query_foreground.any()
    patches = masked.query_mask[:, 0, ::4, ::4]
    assert set(patches.sum((1, 2)).tolist()) == {12, 13}
    assert (patches.float().mean(0) - 0.25).abs().max() < 0.12


def test_random_masking_needs_no_localizer():
    query, key = views(number=16)
    masked = SaliencyMasker(MeanFill(), patches="random", hard_negatives=0)(query, key)
    assert masked.hard_negatives == []
    assert masked.query_saliency is None
    assert masked.query_mask.any((1, 2, 3)).all()


def test_the_foreground_is_not_scrambled():
    # The released code sorts the rows of the map before thresholding it.
    triangle = torch.ones(7, 7).tril()

    class Triangle(nn.Module):
        def forward(self, images):
            return triangle.expand(len(images), 7, 7)

    query, key = views(number=2)
    masked = masker(localizer=Triangle())(query, key)
    assert torch.equal(masked.query_foreground, triangle.bool().expand(2, 7, 7))


@pytest.mark.parametrize("which", ["query", "key", "both"])
def test_the_branch_to_mask_can_be_chosen(which):
    query, key = views()
    masked = masker(masked_views=which)(query, key)
    assert torch.equal(masked.query, query) == (which == "key")
    assert torch.equal(masked.key, key) == (which == "query")
    assert (masked.query_mask is None) == (which == "key")
    assert (masked.key_mask is None) == (which == "query")


@pytest.mark.parametrize(
    ("patches", "inside", "outside"), [("foreground", 1, 0), ("background", 0, 1)]
)
def test_patches_can_be_drawn_from_one_side_alone(patches, inside, outside):
    query, key = views(number=16, size=(28, 28))
    masked = masker(patches=patches, query_ratio=(1, 1), grid=14)(query, key)
    shares = mask_ratios(masked.query_mask, masked.query_foreground)
    assert [share.item() for share in shares] == [inside, outside]


def test_as_many_hard_negatives_as_asked_for_each_drawn_anew():
    query, key = views(number=8)
    masked = masker(hard_negatives=3)(query, key)
    assert len(masked.hard_negatives) == len(masked.hard_negative_masks) == 3
    assert not torch.equal(masked.hard_negative_masks[0], masked.hard_negative_masks[1])


@of_every_strategy
def test_a_generator_makes_masking_repeatable(strategy):
    query, key = views()
    one, same, other = (
        masker_for(strategy)(query, key, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)
    )
    assert torch.equal(one.query, same.query)
    assert all(map(torch.equal, one.hard_negatives, same.hard_negatives))
    assert len(one.hard_negatives) == (not strategy.mixes)
    assert not torch.equal(one.query, other.query)


def test_mask_ratios_are_the_shares_of_pixels():
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(5, 3, 20, 23, generator=generator) < 0.3
    where = torch.rand(5, 7, 7, generator=generator) < 0.4
    where[3] = False
    ratios = mask_ratios(mask, where)
    expected = references.mask_ratios(mask.numpy(), where.numpy())
    assert [ratio.item() for ratio in ratios] == pytest.approx(expected, abs=1e-6)


@of_every_strategy
def test_masking_never_waits_for_the_device_nor_loops_over_images(strategy):
    options = dict(patches="block") if strategy.mixes else {}

    def operations(number):
        query, key = views(number)
        maker = masker_for(strategy, localizer=CornerObject(), **options)
        maker(query, key)
        with profile(activities=[ProfilerActivity.CPU]) as trace:
            maker(query, key)
        return {event.key: event.count for event in trace.key_averages()}

    few, many = operations(2), operations(32)
    assert few == many
    assert not few.keys() & {"aten::item", "aten::_local_scalar_dense", "aten::nonzero"}


@of_every_strategy
def test_memory_does_not_grow_with_the_grid(strategy):
    def allocated(grid):
        query, key = views(8, size=(112, 112))
        maker = masker_for(strategy, localizer=CornerObject(), grid=grid)
        maker(query, key)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
            maker(query, key)
        return sum(max(0, event.self_cpu_memory_usage) for event in trace.events())

    # 49 times as many patches; only the masks over the grid itself may grow.
    assert allocated(14) < 1.2 * allocated(2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(query_ratio=(0.3, 0.1)), "query_ratio must be a range"),
        (dict(query_ratio=(-0.1, 0.1)), "query_ratio must be a range"),
        (dict(hard_negative_ratio=(0.4, 1.1)), "hard_negative_ratio must be a range"),
        (dict(grid=0), "integer of at least 1"),
        (dict(masked_views="all"), "'query', 'key', 'both' or 'none', got 'all'"),
        (dict(patches="object"), "got 'object'"),
        (dict(shares="fair"), "shares must be 'equal' or 'paper', got 'fair'"),
        (dict(hard_negatives=-1), "number of views per image"),
    ],
)
def test_impossible_options_are_refused_when_the_masker_is_built(options, message):
    with pytest.raises(InputError, match=message):
        masker(**options)


def test_what_needs_a_localizer_is_refused_without_one():
    with pytest.raises(InputError, match="'balanced' needs a localizer"):
        SaliencyMasker(MeanFill())
    with pytest.raises(InputError, match="hides the object, which needs a localizer"):
        SaliencyMasker(MeanFill(), patches="random")


@pytest.mark.parametrize("shape", [(5, 3, 64, 64), (6, 3, 64, 60), (6, 1, 64, 64)])
@pytest.mark.parametrize("localizer", [CornerObject(), None])
def test_batches_that_are_not_alike_are_refused(shape, localizer):
    query, _ = views()
    options = {} if localizer else dict(patches="random", hard_negatives=0)
    maker = SaliencyMasker(MeanFill(), localizer, **options)
    for pair in ((query, torch.zeros(shape)), (torch.zeros(shape), query)):
        with pytest.raises(InputError, match=r"views \(N, 3, H, W\) of the same images, got"):
            maker(*pair)


def test_a_grid_finer_than_the_map_or_the_view_is_refused():
    query, key = views(size=(64, 64))
    with pytest.raises(InputError, match="larger than the saliency map"):
        masker(grid=15)(query, key)
    query, key = views(size=(10, 10))
    with pytest.raises(InputError, match="10x10 px is smaller than the 14x14 patch grid"):
        masker(grid=14)(query, key)


@pytest.mark.parametrize(
    "options",
    [
        dict(kernel_size=10),
        dict(sigma=0),
        dict(focal_prob=1.5),
        dict(channel_prob=-1),
        dict(query_std=-1),
    ],
)
def test_impossible_strategies_are_refused(options):
    with pytest.raises(InputError):
        HighPassNoise(**options)


@pytest.mark.parametrize("strategy", [MeanFill, StrongBlur])
@pytest.mark.parametrize("shape", ["focal_prob", "channel_prob"])
def test_only_noise_fills_focal_and_channel_wise_masks(strategy, shape):
    with pytest.raises(InputError, match=f"{strategy.__name__} masks patches that all channels"):
        strategy(**{shape: 0.5})
