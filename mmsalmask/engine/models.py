"""What an engine asks of a model."""

from mmengine.model import is_model_wrapper
from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """The model without the wrapper that joins processes."""
    return model.module if is_model_wrapper(model) else model
