"""What the host drew goes to the device without a wait."""

import torch
from torch import Tensor


def upload(drawn: Tensor, device: torch.device) -> Tensor:
    """A small CPU tensor on the device; on a GPU the copy is queued, the host goes on at once."""
    if device.type == "cuda":
        drawn = drawn.pin_memory()
    return drawn.to(device, non_blocking=True)
