"""A localizer is used for inference only, never trained."""

from typing import Any

import torch
from torch import Tensor, nn

from mmsalmask.errors import InputError
from mmsalmask.saliency.crops import Crops
from mmsalmask.saliency.localizer import Localizer


class Frozen:
    """Hold a localizer outside the module tree of whatever uses it.

    Deliberately not an ``nn.Module``: a model that keeps one as an attribute registers nothing. The
    localizer's weights are in no ``state_dict``, no optimizer and no gradient bucket of DDP, and
    ``model.train()`` does not reach its BatchNorm. It is in eval mode at every call, whoever
    switched it in between, and follows the images to their device.

    Args:
        module: a :class:`~mmsalmask.saliency.Localizer`, or another module, images (N, 3, H, W) →
            saliency (N, h, w). Its parameters stop requiring gradients.

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

    @property
    def needs(self) -> str:
        """What it looks at: views or crops, see :class:`~mmsalmask.saliency.Localizer`."""
        return getattr(self._module, "needs", Localizer.needs)

    def __call__(self, images: Tensor) -> Tensor:
        """Saliency (N, h, w) float32 of images (N, 3, H, W), without gradient."""
        self._prepare(images)
        with torch.no_grad():
            return self._module(images).float()

    def locate(self, views: Tensor, crops: Crops | None, grid: tuple[int, int]) -> Tensor:
        """Saliency on the patch grid, as :meth:`mmsalmask.saliency.Localizer.locate`."""
        self._prepare(views)
        with torch.no_grad():
            return self._ask("locate", views, crops, grid)

    def check_grid(self, grid: tuple[int, int]) -> None:
        """As :meth:`mmsalmask.saliency.Localizer.check_grid`."""
        self._ask("check_grid", grid)

    def check_source(self, **facts: Any) -> None:
        """As :meth:`mmsalmask.saliency.Localizer.check_source`."""
        self._ask("check_source", **facts)

    def _ask(self, method: str, *arguments: Any, **facts: Any) -> Any:
        """A module that is no localizer answers as their base class does."""
        answer = getattr(type(self._module), method, getattr(Localizer, method))
        return answer(self._module, *arguments, **facts)

    def _prepare(self, images: Tensor) -> None:
        self._module.eval()
        if images.device != self._device:
            self._module.to(images.device)
            self._device = images.device

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._module!r})"
