"""Memory that does not suffice: one sentence, with the batch that would fit."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapperDict

from mmsalmask.engine.out_of_memory import (
    _measured_batch,
    fitting_batch,
    is_out_of_memory,
    memory_told,
    sentences_for_memory,
)
from mmsalmask.errors import InputError
from mmsalmask.registry import OPTIM_WRAPPERS

SHORT = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")


def slow_fit(small, peaks, room, limit):
    """Try one multiple after the other."""
    fitting = 0
    for images in range(small, limit, small):
        needed = peaks[0] + (images - small) * (peaks[1] - peaks[0]) / small
        fitting = images if needed <= room else fitting
    return fitting


@pytest.mark.parametrize("room", [50, 100, 300, 1000, 5000])
@pytest.mark.parametrize("limit", [16, 100, 128])
def test_the_fitting_batch_is_that_of_the_slow_search(room, limit):
    assert fitting_batch(8, (90, 130), room, limit) == slow_fit(8, (90, 130), room, limit)


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (SHORT, True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_memory_are_known(error, short):
    assert is_out_of_memory(error) == short


def test_other_errors_pass_untouched():
    with pytest.raises(RuntimeError, match="shapes differ"), sentences_for_memory("x"):
        raise RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match="shapes differ"), memory_told(None):
        raise RuntimeError("shapes differ")


def test_inference_says_what_did_not_fit():
    words = "^batch_size=9 at 64 px does not fit into the memory of"
    with pytest.raises(InputError, match=words), sentences_for_memory("batch_size=9 at 64 px"):
        raise SHORT


class Model(torch.nn.Module):
    """Counts the images of its steps."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.steps = []

    def data_preprocessor(self, batch, training):
        return {"inputs": batch}

    def forward(self, inputs, mode):
        self.steps.append(len(inputs))
        return {"loss": (self.weight * inputs).mean()}

    def parse_losses(self, losses):
        return losses["loss"], {}


@pytest.fixture
def runner():
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    wrapper = OPTIM_WRAPPERS.build(dict(type="OptimWrapper", optimizer=optimizer))
    loader = torch.utils.data.DataLoader(torch.ones(20, 3), batch_size=64)
    return SimpleNamespace(model=model, optim_wrapper=wrapper, train_dataloader=loader)


def test_training_says_its_batch_and_a_smaller_one(runner):
    with pytest.raises(InputError) as caught, memory_told(runner):
        raise SHORT
    words = str(caught.value)
    assert words.startswith("a batch of 64 images does not fit into the memory")
    assert "(try 32)" in words
    assert "\n" not in words


def test_two_small_steps_are_measured_on_the_runners_own_images(runner):
    def peak(step):
        before = len(runner.model.steps)
        step()
        return 100.0 + 10 * sum(runner.model.steps[before:])

    assert _measured_batch(runner, 64, peak, room=500.0) == 32  # (0.9·500 − 100) / 10 = 35
    assert runner.model.steps == [8, 16]
    assert runner.model.weight.grad is None
    assert _measured_batch(runner, 64, peak, room=100.0) == 0


def test_a_batch_divides_into_the_groups_of_batch_norm(runner):
    runner.model.bn_splits = 8
    assert _measured_batch(runner, 64, lambda step: step() or 100.0, room=500.0) == 48
    assert runner.model.steps == [16, 32]


def test_a_step_of_two_optimizers_is_measured_too(runner):
    two = dict.fromkeys(("encoder", "mask_net"), runner.optim_wrapper)
    runner.optim_wrapper = OptimWrapperDict(**two)
    assert _measured_batch(runner, 64, lambda step: step() or 100.0, room=500.0) > 0
    assert runner.model.steps == [8, 16]


def test_a_step_that_does_not_fit_either_leaves_no_advice(runner):
    def peak(step):
        raise SHORT

    assert _measured_batch(runner, 64, peak, room=1.0) == 0
