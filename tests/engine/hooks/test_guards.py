"""What is not finite stays out of the weights and is reported; collapse is told."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmpretrain.structures import DataSample
from running import train_and_close
from torch import nn

from mmsalmask.engine import ExactRunner
from mmsalmask.engine.hooks.guards import (
    CollapseHook,
    NonFiniteHook,
    heavy_hard_negatives,
    share_of_twins,
    slow_keys,
    spread,
)
from mmsalmask.errors import InputError


class Model(BaseModel):
    """Its gradient is the batch's mean, and not finite in the iterations that ``bad`` names."""

    def __init__(self, bad=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.other = torch.nn.Parameter(torch.ones(2))
        self.bad, self.calls = bad or {}, 0

    def forward(self, inputs, data_samples=None, mode="tensor"):
        self.calls += 1
        loss = (self.weight * inputs.mean(0)).sum() + self.other.sum()
        kind = self.bad.get(self.calls)
        if kind == "zero":  # what the guard is to make of a bad one
            loss = loss - loss.detach() + 0 * loss
            return {"loss": 0 * loss}
        if kind == "gradient":  # of one parameter only; the loss itself is finite
            loss = loss + (self.weight * 0).sqrt().sum()
        elif kind is not None:
            loss = loss * kind
        return {"loss": loss}


class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        sample = DataSample(metainfo={"img_path": f"{index}.png"})
        return {"inputs": torch.rand(3) + index, "data_samples": sample}


SGD = {"type": "SGD", "lr": 0.1, "momentum": 0.9}


def run(work, model, iterations=8, optim_wrapper=None, **options):
    runner = ExactRunner(
        model,
        work_dir=str(work),
        train_dataloader={
            "batch_size": 2,
            "num_workers": 0,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "collate_fn": {"type": "default_collate"},
            "dataset": Data(),
        },
        train_cfg={"by_epoch": False, "max_iters": iterations},
        optim_wrapper=optim_wrapper or {"optimizer": SGD},
        custom_hooks=[{"type": "mmsalmask.NonFiniteHook", **options}],
        randomness={"seed": 0},
        experiment_name=f"guards_{np.random.default_rng().integers(2**40)}",
        default_scope="mmengine",
    )
    train_and_close(runner)
    return model


def reports(work) -> dict[int, dict]:
    found = [json.loads(path.read_text()) for path in work.glob("nonfinite/*.json")]
    return {report["iteration"]: report for report in found}


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


@pytest.mark.parametrize("kind", [float("inf"), float("nan"), "gradient"])
@pytest.mark.parametrize("interval", [1, 3, 50])
def test_a_bad_step_is_one_without_gradient_and_its_files_are_told(tmp_path, kind, interval):
    model = run(tmp_path, Model({2: kind, 6: kind}), interval=interval)
    expected = run(tmp_path / "zero", Model({2: "zero", 6: "zero"}))
    assert torch.equal(model.weight, expected.weight)
    assert torch.equal(model.other, expected.other)
    told = reports(tmp_path)
    assert sorted(told) == [2, 6]
    assert told[2]["files"] == ["2.png", "3.png"]
    assert told[6]["files"] == ["2.png", "3.png"]
    assert told[2]["largest_gradient"] in ("nan", "inf")
    assert told[2]["learning_rate"] == [0.1]
    assert reports(tmp_path / "zero") == {}


@pytest.mark.parametrize("fused", [True, False])
def test_steps_that_the_loss_scaling_skips_are_none_of_these(tmp_path, fused):
    """A fused optimizer is handed gradients that overflowed, and skips the step itself."""
    plain = {"type": "SGD", "lr": 0.1}
    wrapper = {
        "type": "mmsalmask.Float16OptimWrapper",
        "loss_scale": {"init_scale": 2.0**127},
        "optimizer": {**plain, "fused": fused},
    }
    model = run(tmp_path, Model(), optim_wrapper=wrapper, limit=0)
    assert reports(tmp_path) == {}
    # The means of the batches are 1, 3, 5 and 7: the second and third overflow.
    skipped = Model({2: "zero", 3: "zero"})
    expected = run(tmp_path / "skipped", skipped, optim_wrapper={"optimizer": plain})
    torch.testing.assert_close(model.weight, expected.weight)
    run(tmp_path / "bad", Model({5: float("nan")}), optim_wrapper=wrapper, limit=1)
    assert sorted(reports(tmp_path / "bad")) == [5]


def test_a_loss_scale_that_shrinks_without_end_ends_in_a_sentence(tmp_path):
    """Losses are finite, gradients never are: the scaling would skip all steps to come."""
    wrapper = {
        "type": "mmsalmask.Float16OptimWrapper",
        "loss_scale": {"init_scale": 2.0**-10},
        "optimizer": SGD,
    }
    model = Model(dict.fromkeys(range(1, 9), "gradient"))
    with pytest.raises(InputError, match=r"the loss scale has fallen to 3\.1e-05"):
        run(tmp_path, model, optim_wrapper=wrapper, interval=5)


def test_gradients_that_are_finite_stay_as_they_are():
    huge = torch.full((3,), 3e38)
    hook, weight = NonFiniteHook(), torch.nn.Parameter(torch.zeros(3))
    weight.grad = huge.clone()
    hook._largest = None
    hook._drop_bad_gradients(torch.optim.SGD([weight], lr=1), (), {})
    assert torch.equal(weight.grad, huge)


def test_too_many_bad_steps_end_in_a_sentence(tmp_path):
    bad = dict.fromkeys((2, 3, 5), float("nan"))
    run(tmp_path / "just", Model(bad), limit=3, interval=2)
    with pytest.raises(InputError, match="3 iterations had a loss or gradients") as caught:
        run(tmp_path / "more", Model(bad), limit=2, interval=2)
    assert "lower the learning rate" in str(caught.value)
    assert sorted(reports(tmp_path / "more")) == [2, 3, 5]


class Diverged(Model):
    """Its loss and gradients are finite, the statistic of its BatchNorm is not."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3)
        self.norm.running_var[1] = float("inf")


@pytest.mark.parametrize(
    ("model", "lr"), [(Model(), float("nan")), (Model(), 1e38), (Diverged(), 0.1)]
)
def test_weights_that_are_not_finite_are_never_saved(tmp_path, model, lr):
    with pytest.raises(InputError, match="the weights are no longer finite and are not saved"):
        run(tmp_path, model, optim_wrapper={"optimizer": {**SGD, "lr": lr}})
    assert not list(tmp_path.rglob("*.pth"))


@pytest.mark.parametrize("options", [{"limit": -1}, {"interval": 0}])
def test_settings_of_the_guard_that_mean_nothing_are_refused(options):
    with pytest.raises(InputError):
        NonFiniteHook(**options)


# ------------------------------------------------------------------------------------ collapse


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


@pytest.mark.parametrize(("iteration", "lines"), [(0, 0), (8, 0), (20, 1)])
def test_a_training_says_how_far_it_is(iteration, lines):
    hook = CollapseHook(interval=1)
    hook._queue, hook._embedding, hook._take = None, torch.ones(4, 8), lambda: None
    hub = SimpleNamespace(update_scalar=lambda name, value: None)
    runner = SimpleNamespace(iter=iteration, max_iters=100, message_hub=hub, logger=Log())
    hook.after_train_iter(runner, iteration)
    assert len(runner.logger.lines) == lines


def test_the_watch_begins_with_the_weight_of_hard_negatives():
    runner = SimpleNamespace(model=contrast(), logger=Log(), max_iters=20_000)
    CollapseHook().before_train(runner)
    (line,) = runner.logger.lines
    assert "a hard negative outweighs the queue" in line


@pytest.mark.parametrize(("steps", "lines"), [(1095, 1), (20_000, 0)])
def test_the_watch_begins_with_the_momentum(steps, lines):
    model = torch.nn.Module()
    model.data_preprocessor, model.momentum = torch.nn.Identity(), (0.999, 0.999)
    runner = SimpleNamespace(model=model, logger=Log(), max_iters=steps)
    CollapseHook().before_train(runner)
    assert len(runner.logger.lines) == lines


@pytest.mark.parametrize("options", [{"interval": 0}, {"spread": 2}, {"twins": -1}, {"flat": 1.5}])
def test_settings_of_the_watch_that_mean_nothing_are_refused(options):
    with pytest.raises(InputError):
        CollapseHook(**options)
