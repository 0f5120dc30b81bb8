"""Check that frozen modules stayed frozen."""

from collections.abc import Sequence

import torch
from mmengine.hooks import Hook
from torch import Tensor

from mmsalmask.engine.models import unwrapped
from mmsalmask.errors import InputError
from mmsalmask.registry import HOOKS


@HOOKS.register_module()
class FrozenCheckHook(Hook):
    """Stop unless the weights and the BatchNorm statistics of frozen modules are what they were.

    They are compared bit for bit with those before training, after each epoch and at the end. A
    linear evaluation is invalid if the backbone adapted, and nothing in its figures would tell.

    Args:
        modules: dotted names of the frozen modules within the model.

    Raises:
        InputError: before training, for a name that the model does not have; later, for a tensor
            that changed.
    """

    priority = "HIGHEST"  # before a checkpoint is written

    def __init__(self, modules: Sequence[str] = ("backbone",)) -> None:
        modules = [modules] if isinstance(modules, str) else modules
        if not isinstance(modules, Sequence) or not modules:
            raise InputError(f"modules of FrozenCheckHook must be a list of names, got {modules!r}")
        self.modules = list(modules)

    def before_train(self, runner) -> None:
        model = unwrapped(runner.model)
        known = dict(model.named_modules())
        for name in self.modules:
            if name not in known:
                raise InputError(
                    f"FrozenCheckHook: {type(model).__name__} has no module '{name}', only "
                    f"{', '.join(child for child, _ in model.named_children())}"
                )
        self._frozen = {name: known[name] for name in self.modules}
        self._before = {name: value.clone() for name, value in self._tensors().items()}

    def after_train_epoch(self, runner) -> None:
        self._compare()

    def after_train(self, runner) -> None:
        self._compare()

    def _tensors(self) -> dict[str, Tensor]:
        """All parameters and buffers of the frozen modules."""
        return {
            f"{name}.{key}": value
            for name, module in self._frozen.items()
            for key, value in module.state_dict().items()
        }

    def _compare(self) -> None:
        changed = [
            name
            for name, value in self._tensors().items()
            if not torch.equal(value, self._before[name])
        ]
        if changed:
            raise InputError(
                f"{len(changed)} tensors of {', '.join(self.modules)} changed in training though "
                f"frozen ones must not ({changed[0]}, for example): set frozen_stages=4 in a "
                "ResNet, which takes gradients away and keeps BatchNorm in eval mode, or remove "
                "FrozenCheckHook"
            )
