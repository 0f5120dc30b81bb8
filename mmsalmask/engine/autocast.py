"""Autocast to sixteen bits on any device; mmengine's ``AmpOptimWrapper`` wants a GPU."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from torch import nn
from torch.optim import Optimizer

from mmsalmask.checks import is_number
from mmsalmask.errors import InputError
from mmsalmask.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """mmengine's ``OptimWrapper`` with the forward pass under bfloat16 autocast.

    bfloat16 has the range of float32, so no loss is scaled and no step skipped. On a CPU it pays if
    the processor has bfloat16 instructions. Takes the arguments of ``OptimWrapper``.
    """

    def optim_context(self, model: nn.Module) -> AbstractContextManager[None]:
        return _autocast(self, model, torch.bfloat16)


@OPTIM_WRAPPERS.register_module()
class Float16OptimWrapper(AmpOptimWrapper):
    """mmengine's ``AmpOptimWrapper`` in float16, with its loss scaling, on any device.

    Most CPUs only imitate float16, slowly: there it shows what a GPU would do.

    Args:
        loss_scale: ``"dynamic"``, a fixed scale, or arguments of ``torch.amp.GradScaler``.
        **options: as of ``OptimWrapper``.

    Raises:
        InputError: for any other ``loss_scale``, and for a fused SGD with dampening.
    """

    def __init__(self, loss_scale: str | float | dict = "dynamic", **options) -> None:
        OptimWrapper.__init__(self, **options)  # its own base asks for a GPU and builds for one
        self.cast_dtype = torch.float16
        self._scale_update_param, scaler = None, {}
        if isinstance(loss_scale, dict):
            scaler = loss_scale
        elif is_number(loss_scale, 0) and loss_scale > 0:
            self._scale_update_param = float(loss_scale)
            scaler = {"init_scale": self._scale_update_param}
        elif loss_scale != "dynamic":
            raise InputError(
                f"loss_scale is 'dynamic', a number above 0 or a dict for torch.amp.GradScaler, "
                f"got {loss_scale!r}"
            )
        self.loss_scaler = torch.amp.GradScaler(get_device(), **scaler)
        if any(group.get("fused") and group.get("dampening") for group in self.param_groups):
            raise InputError(
                "float16 cannot scale the loss of a fused SGD with dampening: set "
                "optim_wrapper.optimizer.fused to False, or its dampening to 0"
            )
        self.optimizer.register_step_pre_hook(_start_momentum)

    def optim_context(self, model: nn.Module) -> AbstractContextManager[None]:
        return _autocast(self, model, self.cast_dtype)


def _start_momentum(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Give a fused SGD the momentum of zero that it started from.

    torch allocates its momentum without clearing it, for the first step to write. If the loss
    scaling skips that step, as it does until the scale has come down, whatever lay in memory stays
    as the momentum. Starting from zero is equivalent, apart from dampening.
    """
    if not isinstance(optimizer, torch.optim.SGD) or not hasattr(optimizer, "found_inf"):
        return
    for group in optimizer.param_groups:
        if group["momentum"] == 0:
            continue
        trained = (parameter for parameter in group["params"] if parameter.grad is not None)
        for parameter in trained:
            state = optimizer.state[parameter]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter.grad)


def wrappers_of(wrapper: OptimWrapper | OptimWrapperDict) -> list[OptimWrapper]:
    """The wrappers of all optimizers of a run; ADIOS has two, the encoder's first."""
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]


@contextmanager
def _autocast(wrapper: OptimWrapper, model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    # Not the wrapper's own base: AmpOptimWrapper's refuses float16 on a CPU.
    with OptimWrapper.optim_context(wrapper, model), torch.autocast(get_device(), dtype=dtype):
        yield
