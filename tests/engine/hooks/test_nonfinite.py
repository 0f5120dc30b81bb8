"""What is not finite stays out of the weights and is reported."""

import json

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmpretrain.structures import DataSample
from running import train_and_close

from mmsalmask.engine import ExactRunner
from mmsalmask.engine.hooks.nonfinite import NonFiniteHook
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


class Normalised(Model):
    """A batch that is infinite reaches the statistics of its BatchNorm, whatever its gradient."""

    def __init__(self, bad=()):
        super().__init__()
        self.norm, self.batches = torch.nn.BatchNorm1d(3), bad

    def forward(self, inputs, data_samples=None, mode="tensor"):
        if self.calls + 1 in self.batches:
            inputs = inputs * float("inf")
        return super().forward(self.norm(inputs), data_samples, mode)


def test_statistics_of_a_bad_batch_go_back_to_those_of_the_last_look(tmp_path):
    model = run(tmp_path, Normalised({5}), iterations=6, interval=2)
    before = run(tmp_path / "before", Normalised(), iterations=4)
    assert sorted(reports(tmp_path)) == [5]
    assert torch.equal(model.norm.running_mean, before.norm.running_mean)
    assert torch.equal(model.norm.running_var, before.norm.running_var)
    assert torch.isfinite(model.weight).all()
    assert list(tmp_path.glob("*.pth"))  # nothing was refused


@pytest.mark.parametrize("options", [{"limit": -1}, {"interval": 0}])
def test_settings_of_the_guard_that_mean_nothing_are_refused(options):
    with pytest.raises(InputError):
        NonFiniteHook(**options)
