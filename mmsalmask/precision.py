"""Where half precision would cost what matters, autocast is left."""

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Autocast off for what runs on this device.

    The meta device, on which ``benchmarks/traffic.py`` counts, has none to switch off.
    """
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
