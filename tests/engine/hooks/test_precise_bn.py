"""BatchNorm's statistics before an evaluation: those of the weights as they are."""

import copy

import pytest
import torch
import torch.distributed as dist
from mmengine.model import BaseModel
from running import train_and_close
from torch import nn

from mmsalmask.engine import ExactRunner, PreciseBNHook
from mmsalmask.engine.hooks.precise_bn import estimate_statistics
from mmsalmask.errors import InputError
from mmsalmask.registry import MODELS

PARTS = ("running_mean", "running_var")


@MODELS.register_module(name="TwoNorms")
class Net(BaseModel):
    """Two norms that learn, and one that is frozen; draws noise, as detectors draw samples."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.second, self.last = nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5)
        self.frozen = nn.BatchNorm2d(5)

    def train(self, mode=True):
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, inputs, data_samples=None, mode="loss"):
        features = self.norm(self.first(inputs)).relu()
        features = self.frozen(self.last(self.second(features)))
        return {"loss": (features * torch.randn_like(features)).square().mean()}


def batches(number, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {"inputs": torch.rand(6, 3, 5, 5, generator=generator) * (1 + i)} for i in range(number)
    ]


def slow_statistics(model, data):
    """Mean over batches of each layer's input mean and unbiased variance, layer by layer."""
    found = {name: [[], []] for name in ("norm", "last")}
    for batch in data:
        before = model.first(batch["inputs"])
        deviation = before.std((0, 2, 3), correction=0, keepdim=True)
        centred = before - before.mean((0, 2, 3), keepdim=True)
        scaled = centred / (deviation.square() + model.norm.eps).sqrt()
        weight, bias = (p[:, None, None] for p in (model.norm.weight, model.norm.bias))
        for name, seen in (
            ("norm", before),
            ("last", model.second((scaled * weight + bias).relu())),
        ):
            columns = seen.transpose(0, 1).flatten(1)
            found[name][0].append(columns.mean(1))
            found[name][1].append(columns.var(1))
    return {
        f"{name}.{part}": torch.stack(values).mean(0).detach()
        for name, both in found.items()
        for part, values in zip(PARTS, both, strict=True)
    }


def test_statistics_become_means_over_batches_and_nothing_else_changes():
    torch.manual_seed(0)
    model = Net().train()
    for part in (model.norm, model.last, model.frozen):
        nn.init.uniform_(part.weight)
        part.running_mean.uniform_()
        part.num_batches_tracked += 7
    before = copy.deepcopy(model.state_dict())
    data = batches(4)
    assert estimate_statistics(model, iter(data)) == 4
    after, expected = model.state_dict(), slow_statistics(model, data)
    assert len(expected) == 4
    for name, value in after.items():
        if name in expected:
            torch.testing.assert_close(value, expected[name])
            assert not torch.allclose(value, before[name], atol=1e-3)
        else:
            assert torch.equal(value, before[name]), name
    assert [norm.momentum for norm in (model.norm, model.last)] == [0.1, 0.1]
    assert all(p.grad is None for p in model.parameters())


def test_no_batches_change_nothing():
    model = Net().train()
    before = copy.deepcopy(model.state_dict())
    assert estimate_statistics(model, []) == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, index):
        return {"inputs": torch.rand(3, 4, 4) + index}


def run(work, hooks, **options):
    torch.manual_seed(0)
    runner = ExactRunner(
        Net(),
        work_dir=str(work),
        train_dataloader={
            "batch_size": 2,
            "num_workers": 0,
            "sampler": {"type": "InfiniteSampler", "shuffle": True},
            "collate_fn": {"type": "default_collate"},
            "dataset": Data(),
        },
        train_cfg={"type": "IterBasedTrainLoop", "max_iters": 6, "val_interval": 4},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.1}},
        default_hooks={
            "logger": None,
            "checkpoint": {
                "type": "mmsalmask.SafeCheckpointHook",
                "interval": 2,
                "by_epoch": False,
            },
        },
        custom_hooks=hooks,
        experiment_name=work.name,
        randomness={"seed": 3},
        **options,
    )
    train_and_close(runner)
    return {
        step: torch.load(work / f"iter_{step}.pth", weights_only=False)["state_dict"]
        for step in (2, 4, 6)
    }


def test_checkpoints_at_an_evaluation_have_them_and_training_does_not_notice(tmp_path):
    plain = run(tmp_path / "plain", [])
    precise = run(tmp_path / "precise", [dict(type="mmsalmask.PreciseBNHook", iterations=5)])
    statistics = {f"{name}.{part}" for name in ("norm", "last") for part in PARTS}
    for step, state in precise.items():
        different = {name for name in state if not torch.equal(state[name], plain[step][name])}
        # An evaluation is due after four iterations, and the last has one of its own.
        assert different == (set() if step == 2 else statistics), step
    assert not torch.equal(precise[4]["norm.running_mean"], precise[6]["norm.running_mean"])


def test_training_by_epochs_is_refused(tmp_path):
    loop = {"type": "EpochBasedTrainLoop", "max_epochs": 1}
    runner = ExactRunner(
        Net(),
        work_dir=str(tmp_path),
        train_dataloader={
            "batch_size": 2,
            "num_workers": 0,
            "sampler": {"type": "DefaultSampler"},
            "dataset": Data(),
        },
        train_cfg=loop,
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.1}},
        custom_hooks=[dict(type="mmsalmask.PreciseBNHook")],
        experiment_name="by_epochs",
    )
    with pytest.raises(InputError, match=r"take mmpretrain\.PreciseBNHook, or remove it"):
        train_and_close(runner)


@pytest.mark.parametrize("iterations", [0, -1, 1.5])
def test_a_number_of_batches_that_is_none_is_refused(iterations):
    with pytest.raises(InputError, match="iterations must be an integer of at least 1"):
        PreciseBNHook(iterations)


def estimate_in_one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = Net().train()
    estimate_statistics(model, batches(3, seed=rank))
    torch.save(model.state_dict(), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_agree_on_the_means_over_the_batches_of_both(tmp_path):
    torch.multiprocessing.spawn(estimate_in_one_of_two, args=(str(tmp_path),), nprocs=2)
    states = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    torch.manual_seed(0)
    model = Net().train()
    expected = slow_statistics(model, [*batches(3, seed=0), *batches(3, seed=1)])
    for name, value in expected.items():
        assert torch.equal(states[0][name], states[1][name]), name
        torch.testing.assert_close(states[0][name], value)
    for name, value in model.state_dict().items():
        assert name in expected or all(torch.equal(state[name], value) for state in states), name
