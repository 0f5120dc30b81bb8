"""The two optimizers of ADIOS: the encoder's and the mask net's."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.model import is_model_wrapper
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper, OptimWrapperDict
from torch import nn

from mmsalmask.errors import InputError
from mmsalmask.registry import OPTIM_WRAPPER_CONSTRUCTORS


class ADIOSOptimWrappers(OptimWrapperDict):
    """The optimizer wrappers ``encoder`` and ``mask_net``, each counting its own steps."""

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Tell both where the run stands; mmengine's does nothing, and accumulation would drop
        the gradient of a last incomplete round."""
        for wrapper in self.values():
            wrapper.initialize_count_status(model, init_counts, max_counts)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Refuse the step of mmengine's usual DDP wrapper, which would pass by both phases."""
        raise InputError(
            "ADIOS has two optimizers, which one DDP wrapper cannot serve: set model_wrapper_cfg="
            "dict(type='MMSeparateDistributedDataParallel', device_ids=None)"
        )


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class ADIOSOptimWrapperConstructor:
    """One optimizer for the encoder and one for the mask net, under wrappers of the same kind.

    In a config::

        optim_wrapper=dict(
            type='OptimWrapper',
            optimizer=dict(...),
            constructor='mmsalmask.ADIOSOptimWrapperConstructor',
            paramwise_cfg=dict(mask_net=dict(optimizer=dict(...))),
        )

    The encoder's wrapper is what it would be without ADIOS, so precision, accumulation and clipping
    are set where they always are. ``paramwise_cfg.mask_net`` holds what the mask net's has of its
    own; everything else (``custom_keys``, …) is for the encoder alone.

    Raises:
        InputError: without an optimizer for the mask net.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        encoder_paramwise = dict(paramwise_cfg or {})
        own = encoder_paramwise.pop("mask_net", {})
        if "optimizer" not in own:
            raise InputError(
                "the mask net needs an optimizer of its own: set "
                "optim_wrapper.paramwise_cfg.mask_net.optimizer"
            )
        # A wrapper takes its arguments apart, so the two must not share any.
        self._encoder = DefaultOptimWrapperConstructor(
            copy.deepcopy(optim_wrapper_cfg), encoder_paramwise
        )
        self._mask_net = DefaultOptimWrapperConstructor(copy.deepcopy({**optim_wrapper_cfg, **own}))

    def __call__(self, model: nn.Module) -> ADIOSOptimWrappers:
        if is_model_wrapper(model):
            model = model.module
        parts = dict(model.named_children())
        mask_net = parts.pop("mask_net")
        return ADIOSOptimWrappers(
            encoder=self._encoder(nn.ModuleDict(parts)), mask_net=self._mask_net(mask_net)
        )


def both_optimizers(optim_wrapper: OptimWrapper) -> tuple[OptimWrapper, OptimWrapper]:
    """The wrappers of the encoder and of the mask net.

    Raises:
        InputError: there is one alone.
    """
    if not isinstance(optim_wrapper, OptimWrapperDict):
        raise InputError(
            "ADIOS trains encoder and mask net by an optimizer each: set optim_wrapper.constructor="
            "'mmsalmask.ADIOSOptimWrapperConstructor'"
        )
    return optim_wrapper["encoder"], optim_wrapper["mask_net"]
