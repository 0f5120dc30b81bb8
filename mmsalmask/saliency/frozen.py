"""A localizer is looked through, never trained."""

import torch
from torch import Tensor, nn

from mmsalmask.errors import InputError


class Frozen:
    """Hold a localizer outside the module tree of whatever uses it.

    Deliberately not an ``nn.Module``: a model that keeps one as an attribute registers nothing. The
    localizer's weights are in no ``state_dict``, no optimizer and no gradient bucket of DDP, and
    ``model.train()`` does not reach its BatchNorm. It is in eval mode at every call, whoever
    switched it in between, and follows the images to their device.

    Args:
        module: a localizer, images (N, 3, H, W) → saliency (N, h, w). Its parameters stop requiring
            gradients.

    Raises:
        InputError: when ``module`` is no ``nn.Module``.
    """

    def __init__(self, module: nn.Module) -> None:
        if not isinstance(module, nn.Module):
            raise InputError(
                f"Frozen holds a localizer (an nn.Module), got {type(module).__name__}: "
                "build the localizer first"
            )
        self._module = module.eval().requires_grad_(False)
        self._device: torch.device | None = None

    @property
    def module(self) -> nn.Module:
        """The localizer itself, on the device of the last images it saw."""
        return self._module

    def __call__(self, images: Tensor) -> Tensor:
        """Saliency (N, h, w) float32 of images (N, 3, H, W), without gradient."""
        if images.device != self._device:
            self._module.to(images.device)
            self._device = images.device
        with torch.no_grad():
            return self._module.eval()(images).float()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._module!r})"
