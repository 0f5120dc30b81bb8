"""What holds for every strategy: it agrees with its slow reference, and says what it does."""

import numpy as np
import pytest
import torch
from registered import STRATEGIES, example_of, masker_for, reference_of, some_views

from mmsalmask.masking import Strategy, View, to_pixels

every_strategy = pytest.mark.parametrize("part", STRATEGIES, ids=lambda part: part.__name__)


@every_strategy
@pytest.mark.parametrize("role", ["query", "hard_negative"])
def test_what_the_encoder_sees_equals_the_slow_reference(part, role):
    strategy = example_of(part)
    views = some_views()
    generator = torch.Generator().manual_seed(1)
    where = torch.rand(4, 4, 4, generator=generator) < 0.5
    where[3] = False
    patches = torch.rand(4, 3 if strategy.any_shape else 1, 4, 4, generator=generator) < 0.4
    mask = to_pixels(patches, (24, 26))
    draws = [torch.Generator().manual_seed(2) for _ in range(2)]
    seen = strategy.see(views)
    fill = strategy.fill(View(role, seen, where), draws[0])
    found = strategy.paste(seen, fill, mask)
    expected = reference_of(part)(
        strategy, views.double().numpy(), mask.numpy(), where.numpy(), role, draws[1]
    )
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
    assert not np.allclose(found.numpy(), seen.numpy(), atol=1e-2)


@every_strategy
def test_it_says_whether_it_filters(part):
    strategy = example_of(part)
    views = some_views()
    removed = torch.allclose(strategy.see(views + 5), strategy.see(views), atol=1e-4)
    assert strategy.filters == removed
    if not strategy.filters:
        assert torch.equal(strategy.see(views), views)


@every_strategy
def test_it_says_whether_it_mixes_images_and_whether_it_needs_the_foreground(part):
    strategy = example_of(part)
    views, other = some_views(), some_views()
    other[1:] += 1  # all but the first image
    where = torch.zeros(4, 4, 4, dtype=torch.bool)
    where[:, 1:3, 1:3] = True

    def first(views, where):
        generator = torch.Generator().manual_seed(0)
        fill = strategy.fill(View("query", strategy.see(views), where), generator)
        return fill.expand_as(views)[0].clone()

    assert strategy.mixes == (not torch.allclose(first(views, where), first(other, where)))
    assert strategy.needs_foreground == (not torch.equal(first(views, where), first(views, ~where)))


@every_strategy
def test_views_of_any_floating_type_keep_it(part):
    strategy = example_of(part)
    masker = masker_for(strategy, grid=4)
    for dtype in (torch.float16, torch.bfloat16):
        pair = some_views().to(dtype), some_views(seed=1).to(dtype)
        masked = masker(*pair)
        assert masked.query.dtype == masked.key.dtype == dtype
        assert masked.query.isfinite().all()


# ------------------------------------------------------------------------------- this very promise


class ForgetfulFill(Strategy):
    """Without an example and without a reference."""

    def fill(self, view, generator):
        return view.seen.flip(2)


def test_a_strategy_without_a_reference_or_an_example_is_named(monkeypatch):
    assert ForgetfulFill not in STRATEGIES
    assert Strategy.registered()["ForgetfulFill"] is ForgetfulFill
    with pytest.raises(AssertionError, match="ForgetfulFill has no example"):
        example_of(ForgetfulFill)
    monkeypatch.setattr(ForgetfulFill, "__module__", "mmsalmask.masking.strategies.forgetful")
    with pytest.raises(AssertionError, match=r"ForgetfulFill has no slow ref.*test_forgetful"):
        reference_of(ForgetfulFill)
