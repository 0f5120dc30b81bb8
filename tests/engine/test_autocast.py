"""Autocast to sixteen bits, and the loss scaling of float16, on whatever device there is."""

import pytest
import torch
from mmengine.device import get_device
from torch import nn

from mmsalmask.engine import BFloat16OptimWrapper, Float16OptimWrapper
from mmsalmask.errors import InputError


def wrapped(loss_scale="dynamic", **sgd) -> tuple[nn.Linear, Float16OptimWrapper]:
    torch.manual_seed(0)
    net = nn.Linear(4, 3).to(get_device())
    optimizer = torch.optim.SGD(net.parameters(), **{"lr": 0.1, **sgd})
    return net, Float16OptimWrapper(loss_scale, optimizer=optimizer)


def test_only_the_forward_pass_is_in_sixteen_bits():
    for dtype in (torch.float16, torch.bfloat16):
        net, wrapper = wrapped()
        if dtype == torch.bfloat16:
            wrapper = BFloat16OptimWrapper(optimizer=wrapper.optimizer)
        inputs = torch.ones(2, 4, device=get_device())
        with wrapper.optim_context(net):
            assert net(inputs).dtype == dtype
        assert net(inputs).dtype == net.weight.dtype == torch.float32


def test_a_scaled_loss_moves_weights_as_one_that_is_not():
    inputs = torch.ones(2, 4, device=get_device())
    net, wrapper = wrapped()
    reference, own = wrapped()
    wrapper.update_params(net(inputs).square().mean())
    own.optimizer.zero_grad()
    reference(inputs).square().mean().backward()
    own.optimizer.step()
    torch.testing.assert_close(net.weight, reference.weight)
    assert not net.weight.equal(wrapped()[0].weight)


@pytest.mark.parametrize("loss_scale", ["dynamic", {"init_scale": 1024.0}, 512.0])
def test_an_overflow_skips_the_step_and_halves_a_dynamic_scale(loss_scale):
    net, wrapper = wrapped(loss_scale)
    before, scale = net.weight.clone(), wrapper.loss_scaler.get_scale()
    wrapper.update_params(net(torch.full((2, 4), float("inf"), device=get_device())).sum())
    assert net.weight.equal(before)
    fixed = isinstance(loss_scale, float)
    assert wrapper.loss_scaler.get_scale() == (scale if fixed else scale / 2)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_fused_optimizer_whose_first_steps_are_skipped_starts_as_any_other(monkeypatch, momentum):
    # What torch finds in the memory that it takes, by bad luck.
    monkeypatch.setattr(torch, "empty_like", lambda t, **_: torch.full_like(t, float("nan")))
    nets = []
    for fused in (True, False):
        net, wrapper = wrapped(momentum=momentum, weight_decay=0.1, fused=fused)
        for value in (float("inf"), float("inf"), 1.0, 2.0, float("inf"), 3.0):
            inputs = torch.full((2, 4), value, device=get_device())
            wrapper.update_params(net(inputs).square().mean())
        nets.append(net)
    torch.testing.assert_close(nets[0].weight, nets[1].weight)
    assert nets[0].weight.isfinite().all()


def test_a_fused_optimizer_with_dampening_is_refused():
    wrapped(momentum=0.9, dampening=0.5)
    with pytest.raises(InputError, match="a fused SGD with dampening"):
        wrapped(momentum=0.9, dampening=0.5, fused=True)


def test_a_resumed_run_has_the_scale_of_the_one_that_was_stopped():
    net, wrapper = wrapped()
    wrapper.update_params(net(torch.full((2, 4), float("inf"), device=get_device())).sum())
    fresh = wrapped()[1]
    assert fresh.loss_scaler.get_scale() != wrapper.loss_scaler.get_scale()
    fresh.load_state_dict(wrapper.state_dict())
    assert fresh.loss_scaler.state_dict() == wrapper.loss_scaler.state_dict()


@pytest.mark.parametrize("loss_scale", ["static", 0, -1.0, float("nan"), None, True])
def test_another_loss_scale_is_refused(loss_scale):
    with pytest.raises(InputError, match="loss_scale is 'dynamic', a number above 0"):
        wrapped(loss_scale)
