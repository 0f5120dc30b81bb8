"""ADIOS: a mask net trained as the adversary of the encoder, over MoCo v2 or SimCLR."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from mmengine.model import is_model_wrapper
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper, OptimWrapperDict
from mmengine.runner.checkpoint import get_state_dict
from mmpretrain.models import BaseSelfSupervisor
from torch import Tensor, nn

from mmsalmask.checks import check_flag, check_part, is_number
from mmsalmask.errors import InputError
from mmsalmask.losses import area_penalty
from mmsalmask.models.encoder import kept_statistics
from mmsalmask.models.moco import MaskedMoCo, _embed
from mmsalmask.models.simclr import MaskedSimCLR, _of_other_processes
from mmsalmask.registry import MODELS


class ADIOS(BaseSelfSupervisor):
    """Adversarial inference–occlusion self-supervision (Shi et al. 2022): the two-phase step.

    Stands before an algorithm in a class's bases, which gives the encoder and the contrast. Takes
    ``inputs = [view, clean view]``, no masker between. The mask net divides the view among N slots;
    slot n hides its part, view·(1 − mask_n), which leaves the mean of the data there. Per batch:

    1. The encoder (all but the mask net) minimises the contrast of the masked views with the clean
       one, summed over the slots; the masks are detached.
    2. The mask net minimises α·area penalty − that same contrast, so it maximises the contrast and
       the penalty hurts it. The encoder is frozen: its parameters, BatchNorm statistics, momentum
       encoder and queue do not move, its BatchNorm still normalises by the batch.

    The clean view is encoded once per phase. The masks are computed once, since nothing moves the
    mask net between the phases. Each phase holds the graph of all its slots, as in the paper.

    Needs the two optimizers of :class:`ADIOSOptimWrapperConstructor`, and over several processes
    ``model_wrapper_cfg=dict(type='MMSeparateDistributedDataParallel', device_ids=None)``. With
    accumulated gradients the encoder's is that of the joined batch; the mask net's differs from it
    in that the encoder has already stepped in the last of the batches and not in those before.

    Args:
        mask_net: config of a module (N, 3, H, W) → (N, slots, H, W), ``mmsalmask.MaskUNet``.
        penalty_weight: α ≥ 0; the paper's are 0.1 to 1.
        single_slot: draw one slot per image and phase instead of summing over all ("-s"); the
            penalty still counts all.
        algorithm: the arguments of the algorithm.

    Raises:
        InputError: for a data preprocessor with a masker, or a negative penalty weight.
    """

    def __init__(
        self,
        mask_net: dict,
        penalty_weight: float = 1.0,
        single_slot: bool = False,
        **algorithm,
    ) -> None:
        super().__init__(**algorithm)
        if getattr(self.data_preprocessor, "masker", None) is not None:
            raise InputError(
                "ADIOS learns where to mask, a masker (with its frozen localizer) would mask the "
                "views before it sees them: remove model.data_preprocessor.masker"
            )
        if not is_number(penalty_weight, 0):
            raise InputError(
                f"penalty_weight must be a number that is not negative, got {penalty_weight!r}: "
                "else the mask net would be rewarded for slots that cover nothing or everything"
            )
        self.penalty_weight = penalty_weight
        self.single_slot = check_flag("single_slot", single_slot)
        self.mask_net = MODELS.build(check_part("model.mask_net", mask_net))

    def _start_batch(self) -> None:
        """Before both phases."""

    def _encode_clean(self, view: Tensor) -> Tensor:
        """ℓ2-normalised embeddings (N, D) of the clean view."""
        raise NotImplementedError

    def _contrast(self, masked: Tensor, clean: Tensor) -> Tensor:
        """Loss of masked views (N, 3, H, W) against embeddings of the clean one; a scalar."""
        raise NotImplementedError

    def _end_batch(self, clean: Tensor) -> None:
        """After both phases, with the detached embeddings of the clean view in the first."""

    def train_step(self, data: dict, optim_wrapper: OptimWrapperDict) -> dict[str, Tensor]:
        """Both phases on a batch.

        Returns:
            Scalars to log: ``loss``, what the encoder minimised; ``mask_loss``, what the mask net
            minimised; ``area_penalty``, without its weight; ``area_1`` …, each slot's mean area.

        Raises:
            InputError: unless there are two views, and two optimizers.
        """
        encoder_optim, mask_optim = _both(optim_wrapper)
        with mask_optim.optim_context(self):
            view, clean_view = _two_views(self.data_preprocessor(data, True)["inputs"])
            masks = self.mask_net(view)

        self._start_batch()
        with encoder_optim.optim_context(self):
            clean = self._encode_clean(clean_view)
            loss = self._contrast_slots(view, masks.detach(), clean)
        encoder_optim.update_params(loss)

        with self._frozen_encoder():
            with mask_optim.optim_context(self):
                contrast = self._contrast_slots(view, masks, self._encode_clean(clean_view))
                penalty = area_penalty(masks)
                mask_loss = self.penalty_weight * penalty - contrast
            mask_optim.update_params(mask_loss)

        self._end_batch(clean.detach())
        areas = masks.detach().mean((0, 2, 3))
        return {
            "loss": loss.detach(),
            "mask_loss": mask_loss.detach(),
            "area_penalty": penalty.detach(),
            **{f"area_{n}": area for n, area in enumerate(areas, 1)},
        }

    def _contrast_slots(self, view: Tensor, masks: Tensor, clean: Tensor) -> Tensor:
        """The contrast summed over the slots, or that of one slot drawn for each image."""
        if self.single_slot:
            number, slots = masks.shape[:2]
            drawn = torch.randint(slots, (number,), device=masks.device)
            masks = masks[torch.arange(number, device=masks.device), drawn, None]
        return torch.stack(
            [self._contrast(view * (1 - mask[:, None]), clean) for mask in masks.unbind(1)]
        ).sum()

    def loss(self, inputs: list[Tensor], data_samples: list | None = None) -> dict[str, Tensor]:
        """What the encoder would minimise on a batch, outside of the two phases.

        Args:
            inputs: the view to mask and the clean one, (N, 3, H, W).
            data_samples: not used.
        """
        view, clean_view = _two_views(inputs)
        masks = self.mask_net(view)
        return {"loss": self._contrast_slots(view, masks, self._encode_clean(clean_view))}

    @contextmanager
    def _frozen_encoder(self) -> Iterator[None]:
        """Let gradients through everything but the mask net, and leave it exactly as it is."""
        parts = [part for name, part in self.named_children() if name != "mask_net"]
        parameters = [p for part in parts for p in part.parameters() if p.requires_grad]
        try:
            for parameter in parameters:
                parameter.requires_grad_(False)
            # DDP that looks for unused parameters would take the frozen ones for such.
            with kept_statistics(parts), self.no_sync():
                yield
        finally:
            for parameter in parameters:
                parameter.requires_grad_(True)

    def state_dict(self, *, destination=None, prefix: str = "", keep_vars: bool = False) -> dict:
        """As of any module, under the same names where DDP wraps the parts.

        mmengine saves this, and a ``backbone.module.conv1`` would be no backbone to anyone else. It
        loads by a function of its own that looks through wrappers.
        """
        return get_state_dict(self, destination, prefix, keep_vars)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Forward passes in here do not make DDP average gradients; mmengine's wrappers use it."""
        with ExitStack() as stack:
            for part in self.children():
                if is_model_wrapper(part):
                    stack.enter_context(part.no_sync())
            yield


@MODELS.register_module()
class ADIOSMoCo(ADIOS, MaskedMoCo):
    """ADIOS over MoCo v2: the masked view is the query; key and queue stay clean.

    The momentum encoder moves and the keys are enqueued once per batch, after both phases, so that
    no phase meets its own keys as negatives. Arguments are those of :class:`ADIOS` and
    :class:`MaskedMoCo`.

    Raises:
        InputError: for a symmetric loss.
    """

    def __init__(self, **options) -> None:
        super().__init__(**options)
        if self.symmetric:
            raise InputError(
                "ADIOS masks one view and keeps the other clean: remove symmetric=True"
            )

    def init_weights(self) -> None:
        """Initialise the encoder and start the momentum encoder as its copy."""
        super(MaskedMoCo, self).init_weights()
        # Unlike state_dict(), this looks through the DDP around backbone and neck.
        self.momentum_encoder.load_state_dict(get_state_dict(self._encoder))

    def _start_batch(self) -> None:
        self._update_momentum_encoder()

    @torch.no_grad()
    def _encode_clean(self, view: Tensor) -> Tensor:
        return self._embed_shuffled(view)

    def _contrast(self, masked: Tensor, clean: Tensor) -> Tensor:
        return self.head.loss(_embed(self._encoder, masked), clean, self.queue)["loss"]

    def _end_batch(self, clean: Tensor) -> None:
        self._enqueue(clean)


@MODELS.register_module()
class ADIOSSimCLR(ADIOS, MaskedSimCLR):
    """ADIOS over SimCLR; the clean view is encoded with gradient, in a forward of its own.

    Arguments are those of :class:`ADIOS` and :class:`MaskedSimCLR`.
    """

    def _encode_clean(self, view: Tensor) -> Tensor:
        return self._embed(view)

    def _contrast(self, masked: Tensor, clean: Tensor) -> Tensor:
        embedded = self._embed(masked)
        others = _of_other_processes(torch.cat([embedded, clean]))
        return self.head.loss(embedded, clean, None, others)["loss"]


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


class ADIOSOptimWrapperConstructor:
    """One optimizer for the encoder and one for the mask net, under wrappers of the same kind.

    ``optim_wrapper=dict(type='OptimWrapper', optimizer=dict(...), constructor='mmsalmask.models.``
    ``adios.ADIOSOptimWrapperConstructor', paramwise_cfg=dict(mask_net=dict(optimizer=dict(...))))``

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


def _both(optim_wrapper: OptimWrapper) -> tuple[OptimWrapper, OptimWrapper]:
    if not isinstance(optim_wrapper, OptimWrapperDict):
        raise InputError(
            "ADIOS trains encoder and mask net by an optimizer each: set optim_wrapper.constructor="
            "'mmsalmask.models.adios.ADIOSOptimWrapperConstructor'"
        )
    return optim_wrapper["encoder"], optim_wrapper["mask_net"]


def _two_views(inputs: list[Tensor]) -> list[Tensor]:
    if len(inputs) != 2:
        raise InputError(
            f"ADIOS takes a view to mask and a clean one, but the pipeline gives {len(inputs)}: "
            "set num_views=2 in its MultiView"
        )
    return inputs
