"""Collapse is told."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmsalmask.engine.hooks.collapse import (
    CollapseHook,
    heavy_hard_negatives,
    long_queue,
    share_of_twins,
    slow_keys,
    spread,
)
from mmsalmask.errors import InputError


@pytest.mark.parametrize(
    ("momentum", "steps", "advice"),
    [(0.999, 1095, "e.g. 0.99,"), (0.999, 7_800, "e.g. 0.996,"), (0.99, 100, "e.g. 0.9,")],
)
def test_a_momentum_too_high_for_a_short_training_is_warned_of(momentum, steps, advice):
    assert advice in slow_keys((momentum, 1.0), steps)


@pytest.mark.parametrize(
    ("momentum", "steps"),
    [
        ((0.999, 0.999), 10_000),
        ((0.99, 1.0), 1_000),
        ((0.999, 0.999), 99),
        ((1, 1), 200),
        (None, 200),
    ],
)
def test_a_momentum_that_fits_is_not(momentum, steps):
    assert slow_keys(momentum, steps) is None


def contrast(penalty=2.0, temperature=0.1, keys=4096, hard_negatives=1) -> nn.Module:
    model = nn.Module()
    model.queue = torch.zeros(keys, 8)
    model.head = SimpleNamespace(penalty=penalty, temperature=temperature)
    model.data_preprocessor = nn.Identity()
    model.data_preprocessor.masker = nn.Identity()
    model.data_preprocessor.masker.hard_negatives = hard_negatives
    return model


def test_hard_negatives_that_outweigh_the_queue_are_warned_of_with_what_to_set():
    told = heavy_hard_negatives(contrast())
    assert "from a similarity of 0.42 on" in told
    assert "set model.head.penalty to 0.8 or less" in told
    assert heavy_hard_negatives(contrast(penalty=0.8)) is None


@pytest.mark.parametrize(
    "fits",
    [
        dict(temperature=0.2, keys=65_536),  # the paper's
        dict(temperature=0.2),
        dict(hard_negatives=0),
        dict(penalty=0.0),
    ],
)
def test_hard_negatives_that_do_not_are_not(fits):
    assert heavy_hard_negatives(contrast(**fits)) is None
    assert heavy_hard_negatives(nn.Module()) is None


def test_the_spread_is_one_on_the_sphere_and_zero_in_a_point():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(2000, 64, generator=generator)
    assert spread(points).item() == pytest.approx(1, abs=0.01)
    assert spread(points[:1].expand(50, -1)).item() == pytest.approx(0, abs=1e-3)
    rows = points / points.norm(dim=1, keepdim=True)
    expected = ((rows - rows.mean(0)) ** 2).mean(0).sum().sqrt()
    torch.testing.assert_close(spread(3 * points), expected)


def test_twins_are_counted_as_in_a_comparison_of_all_pairs():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(60, 8, generator=generator)
    assert share_of_twins(rows) == 0
    rows[10], rows[40], rows[59], rows[3] = rows[2], rows[2], rows[20], -rows[5]
    pairs = (rows[:, None] == rows[None]).all(-1) & ~torch.eye(60, dtype=torch.bool)
    assert share_of_twins(rows).item() == pytest.approx(pairs.any(1).float().mean().item())
    assert share_of_twins(torch.zeros(5, 3)) == 1


class Log:
    def __init__(self):
        self.lines = []

    def warning(self, line):
        self.lines.append(line)


@pytest.mark.parametrize(
    ("found", "word"),
    [
        ({"embedding_spread": 0.01}, "collapse"),
        ({"embedding_spread": float("nan")}, "collapse"),
        ({"queue_twins%": 50.0}, "twice"),
        ({"flat_saliency%": 90.0}, "flat or not finite"),
        ({"embedding_spread": 0.9, "queue_twins%": 0.0, "flat_saliency%": 10.0}, None),
    ],
)
def test_what_goes_wrong_is_warned_of(found, word):
    log, hook = Log(), CollapseHook()
    for _ in range(2):
        hook._warn(log, found, done=0.5)
    assert len(log.lines) == (word is not None)
    assert all(word in line for line in log.lines)


def test_a_new_net_is_not_warned_of_until_it_should_have_spread_and_a_fall_at_once():
    def told(*seen):
        log, hook = Log(), CollapseHook()
        for done, together in seen:
            hook._warn(log, {"embedding_spread": together}, done)
        return len(log.lines)

    assert told((0.01, 0.02), (0.05, 0.05), (0.09, 0.3)) == 0
    assert told((0.01, 0.02), (0.11, 0.02), (0.12, 0.02)) == 1
    assert told((0.01, 0.02), (0.02, 0.3), (0.03, 0.02)) == 1
    assert told((0.5, 0.02), (0.6, 0.3), (0.7, 0.02)) == 2
    assert told((0.01, float("nan"))) == 1


def test_the_spread_is_that_of_the_views_not_of_hard_negatives_or_crops():
    hook, views = CollapseHook(interval=1), torch.randn(6, 4)
    hook._wanted, hook._embedding = True, None
    for embeddings in (views, torch.ones(6, 4), torch.ones(12, 4)):
        hook._keep_embedding(nn.Identity(), None, (embeddings,))
    assert hook._embedding is views


@pytest.mark.parametrize(("iteration", "lines"), [(0, 0), (8, 0), (20, 1)])
def test_a_training_says_how_far_it_is(iteration, lines):
    hook = CollapseHook(interval=1)
    hook._queue, hook._embedding, hook._take = None, torch.ones(4, 8), lambda: None
    hub = SimpleNamespace(update_scalar=lambda name, value: None)
    runner = SimpleNamespace(iter=iteration, max_iters=100, message_hub=hub, logger=Log())
    hook.after_train_iter(runner, iteration)
    assert len(runner.logger.lines) == lines


def about_to_train(model: nn.Module, images: int, steps: int, accumulate: int = 1):
    """What a hook is told of a run before its first step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)
    return SimpleNamespace(
        model=model,
        logger=Log(),
        max_iters=steps,
        train_dataloader=SimpleNamespace(dataset=range(images)),
        optim_wrapper=OptimWrapper(optimizer, accumulate),
    )


def test_the_watch_begins_with_the_weight_of_hard_negatives():
    runner = about_to_train(contrast(), 4096, 20_000)
    CollapseHook().before_train(runner)
    (line,) = runner.logger.lines
    assert "a hard negative outweighs the queue" in line


def test_the_watch_begins_with_the_length_of_the_queue():
    runner = about_to_train(contrast(keys=512, hard_negatives=0), 201, 9)
    CollapseHook().before_train(runner)
    (line,) = runner.logger.lines
    assert "512 keys and the data 201 images" in line
    assert line.endswith("set model.queue_len, e.g. 64")
    assert long_queue(torch.zeros(201, 8), range(201)) is None
    assert long_queue(torch.zeros(512, 8), iter(())) is None


@pytest.mark.parametrize(
    ("steps", "accumulate", "lines"), [(1095, 1, 1), (20_000, 1, 0), (20_000, 8, 1)]
)
def test_the_watch_begins_with_the_momentum(steps, accumulate, lines):
    model = torch.nn.Module()
    model.data_preprocessor, model.momentum = torch.nn.Identity(), (0.999, 0.999)
    runner = about_to_train(model, 8, steps, accumulate)
    CollapseHook().before_train(runner)
    assert len(runner.logger.lines) == lines


@pytest.mark.parametrize(("interval", "watched"), [(2, [1, 3, 4]), (5, [4]), (50, [4])])
def test_the_end_of_an_epoch_is_watched_however_short_it_is(interval, watched):
    hook, runner = CollapseHook(interval), SimpleNamespace(train_dataloader=range(5))
    assert [i for i in range(5) if hook.wants(runner, i)] == watched


@pytest.mark.parametrize("options", [{"interval": 0}, {"spread": 2}, {"twins": -1}, {"flat": 1.5}])
def test_settings_of_the_watch_that_mean_nothing_are_refused(options):
    with pytest.raises(InputError):
        CollapseHook(**options)
