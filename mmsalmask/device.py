"""What keeps a step on the device exact, and free of waits and of launches that it could spare."""

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
from torch import Tensor


def upload(drawn: Tensor, device: torch.device) -> Tensor:
    """A small CPU tensor on the device; on a GPU the copy is queued, the host goes on at once.

    One that is there already stays.
    """
    if device.type == "cuda" and drawn.device.type == "cpu":
        drawn = drawn.pin_memory()
    return drawn.to(device, non_blocking=True)


def constant(values: list, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor of numbers, or of lists of them, uploaded once; not to be written to."""
    return _constant(_frozen(values), device, dtype)


def _frozen(values: list) -> tuple:
    return tuple(_frozen(part) if isinstance(part, list) else part for part in values)


@lru_cache(maxsize=256)
def _constant(values: tuple, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype).to(device)


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Autocast off for what runs on this device: half precision would cost what matters there.

    The meta device, on which ``benchmarks/traffic.py`` counts, has none to switch off.
    """
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
