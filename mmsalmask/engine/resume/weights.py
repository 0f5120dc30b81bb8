"""What a checkpoint holds of a model besides its weights, and when they are not worth saving."""

import torch
from mmengine.dist import all_reduce
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmsalmask.engine.autocast import wrappers_of
from mmsalmask.errors import InputError


@torch.no_grad()
def refuse_bad_weights(model: nn.Module) -> None:
    """Refuse weights and BatchNorm statistics that are not finite in any process.

    All processes have to call this.

    Raises:
        InputError: there are such.
    """
    tensors = [*model.parameters(), *batch_norm(model).values()]
    floats = [tensor for tensor in tensors if tensor.is_floating_point()]
    # The largest value of each, which a NaN is, too; empty tensors have none.
    largest = torch.stack([t.abs().amax().float() for t in floats if t.numel()])
    bad = (~largest.isfinite()).any().to(torch.uint8)
    all_reduce(bad, "max")
    if bad:
        raise InputError(
            "the weights are no longer finite and are not saved, the last good checkpoint is "
            "kept: lower optim_wrapper.optimizer.lr, or train in bfloat16 or float32, and "
            "start again, with --resume if there is a checkpoint"
        )


def batch_norm(model: nn.Module) -> dict[str, Tensor]:
    """The statistics of all BatchNorms by their names in the model."""
    return {
        f"{name}.{key}": value
        for name, norm in model.named_modules()
        if isinstance(norm, _BatchNorm)
        for key, value in norm.named_buffers()
    }


def open_gradients(
    model: nn.Module, optim_wrapper: OptimWrapper | OptimWrapperDict
) -> dict[str, Tensor]:
    """What was accumulated for a step that is yet to come, the processes' mean, on the CPU."""
    if all(one.should_update() for one in wrappers_of(optim_wrapper)):
        return {}
    named = _plain_parameters(model)
    gradients = {name: p.grad.clone() for name, p in named.items() if p.grad is not None}
    for gradient in gradients.values():
        all_reduce(gradient, "mean")
    return {name: gradient.cpu() for name, gradient in gradients.items()}


def put_back_gradients(model: nn.Module, gradients: dict[str, Tensor]) -> None:
    """What :func:`open_gradients` returned, with or without the processes of then."""
    parameters = _plain_parameters(model)
    for name, gradient in gradients.items():
        parameter = parameters[_plain(name)]  # earlier versions kept the name with the wrapper
        parameter.grad = gradient.to(parameter.device)


def _plain_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {_plain(name): parameter for name, parameter in model.named_parameters()}


def _plain(name: str) -> str:
    """A parameter's name without DDP, which may wrap single parts of a model."""
    return ".".join(part for part in name.split(".") if part != "module")
