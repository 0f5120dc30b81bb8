"""ADIOS: a mask net trained as the adversary of the encoder, over MoCo v2 or SimCLR."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner.checkpoint import get_state_dict
from mmpretrain.models import BaseSelfSupervisor
from torch import Tensor

from mmsalmask.algorithms.adios_optimizers import (
    ADIOSOptimWrapperConstructor,  # noqa: F401  (configs of earlier runs name it in this module)
    both_optimizers,
)
from mmsalmask.algorithms.distributed import of_other_processes
from mmsalmask.algorithms.encoder import embed, kept_statistics
from mmsalmask.algorithms.moco import MaskedMoCo
from mmsalmask.algorithms.simclr import MaskedSimCLR
from mmsalmask.checks import check_flag, check_part, is_number
from mmsalmask.errors import InputError
from mmsalmask.losses import area_penalty
from mmsalmask.registry import MODELS


class ADIOS(BaseSelfSupervisor):
    """Adversarial inference–occlusion self-supervision (Shi et al. 2022).

    Stands before an algorithm in a class's bases, which gives the encoder and the contrast. Takes
    ``inputs = [view, clean view]``, no masker between. The mask net divides the view among N slots;
    slot n hides its part, view·(1 − mask_n), which leaves the mean of the data there. A batch has
    two phases:

    1. The encoder (all but the mask net) minimises the contrast of the masked views with the clean
       one, summed over the slots; the masks are detached.
    2. The mask net minimises α·area penalty − that same contrast, so it maximises the contrast and
       the penalty hurts it. The encoder is frozen: its parameters, BatchNorm statistics, momentum
       encoder and queue do not move, its BatchNorm still normalises by the batch.

    The clean view is encoded once per phase. The masks are computed once, since nothing moves the
    mask net between the phases. Each phase holds the graph of all its slots, as in the paper.

    With ``simultaneous`` both play at once: each slot passes the encoder once, and one backward
    pass takes the gradients of the encoder and of the slot's mask, so that one slot's graph lives
    at a time and a step costs little more than half. The mask net then meets the encoder as it is
    before its step instead of after; all else is equal.

    Needs the two optimizers of :class:`ADIOSOptimWrapperConstructor`, and over several processes
    ``model_wrapper_cfg=dict(type='MMSeparateDistributedDataParallel', device_ids=None)``. With
    accumulated gradients the encoder's is that of the joined batch, and the mask net's too if both
    play at once; in two phases the encoder has already stepped in the last of the batches and not
    in those before.

    Args:
        mask_net: config of a module (N, 3, H, W) → (N, slots, H, W), ``mmsalmask.MaskUNet``.
        penalty_weight: α ≥ 0; the paper's are 0.1 to 1.
        single_slot: draw one slot per image and phase instead of summing over all ("-s"); the
            penalty still counts all.
        simultaneous: train encoder and mask net by one pass instead of two phases.
        algorithm: the arguments of the algorithm.

    Raises:
        InputError: for a data preprocessor with a masker, or a negative penalty weight.
    """

    def __init__(
        self,
        mask_net: dict,
        penalty_weight: float = 1.0,
        single_slot: bool = False,
        simultaneous: bool = False,
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
        self.simultaneous = check_flag("simultaneous", simultaneous)
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
        """Train both nets on a batch.

        Returns:
            Scalars to log: ``loss``, what the encoder minimised; ``mask_loss``, what the mask net
            minimised; ``area_penalty``, without its weight; ``area_1`` …, each slot's mean area.

        Raises:
            InputError: unless there are two views, and two optimizers.
        """
        encoder_optim, mask_optim = both_optimizers(optim_wrapper)
        with mask_optim.optim_context(self):
            view, clean_view = _two_views(self.data_preprocessor(data, True)["inputs"])
            masks = self.mask_net(view)

        self._start_batch()
        play = self._at_once if self.simultaneous else self._in_two_phases
        clean, losses = play(view, clean_view, masks, encoder_optim, mask_optim)
        self._end_batch(clean)
        areas = masks.detach().mean((0, 2, 3))
        return {**losses, **{f"area_{n}": area for n, area in enumerate(areas, 1)}}

    def _in_two_phases(
        self,
        view: Tensor,
        clean_view: Tensor,
        masks: Tensor,
        encoder_optim: OptimWrapper,
        mask_optim: OptimWrapper,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Update the encoder, then the mask net; returns what the clean view was embedded as."""
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
        return clean.detach(), _to_log(loss, mask_loss, penalty)

    def _at_once(
        self,
        view: Tensor,
        clean_view: Tensor,
        masks: Tensor,
        encoder_optim: OptimWrapper,
        mask_optim: OptimWrapper,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Update both by one pass of each slot; returns what the clean view was embedded as.

        Graphs end at leaves, the masks and the embeddings of the clean view, where the gradients of
        the slots add up. They leave for the nets behind in one pass each, as those of the inner
        product with them.
        """
        factor = _factor(encoder_optim, torch.ones((), device=view.device))
        slots = self._chosen(masks)
        leaves = [mask.requires_grad_() for mask in slots.detach().unbind(1)]
        with encoder_optim.optim_context(self), self.no_sync():
            clean = self._encode_clean(clean_view)
        clean_leaf = clean.detach().requires_grad_(clean.requires_grad)
        total = torch.zeros_like(factor)
        for mask in leaves[:-1]:
            with encoder_optim.optim_context(self), self.no_sync():
                loss = self._contrast(view * (1 - mask[:, None]), clean_leaf)
            (loss * factor).backward()
            total += loss.detach()
        # The last slot's pass is the one after which DDP averages the gradients of all.
        with encoder_optim.optim_context(self):
            loss = self._contrast(view * (1 - leaves[-1][:, None]), clean)
        total += loss.detach()
        if clean_leaf.grad is not None:
            loss = loss + _inner(clean, clean_leaf.grad / factor)
        encoder_optim.update_params(loss)

        penalty = area_penalty(masks)
        gradient = torch.stack([leaf.grad for leaf in leaves], 1) / factor
        mask_optim.update_params(self.penalty_weight * penalty - _inner(slots, gradient))
        return clean.detach(), _to_log(total, self.penalty_weight * penalty - total, penalty)

    def _chosen(self, masks: Tensor) -> Tensor:
        """The masks of all slots, or of one drawn for each image, (N, slots or 1, H, W)."""
        if not self.single_slot:
            return masks
        number, slots = masks.shape[:2]
        drawn = torch.randint(slots, (number,), device=masks.device)
        return masks[torch.arange(number, device=masks.device), drawn, None]

    def _contrast_slots(self, view: Tensor, masks: Tensor, clean: Tensor) -> Tensor:
        """The contrast summed over the slots, or that of one slot drawn for each image."""
        masks = self._chosen(masks).unbind(1)
        return torch.stack(
            [self._contrast(view * (1 - mask[:, None]), clean) for mask in masks]
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
        return self.head.loss(embed(self._encoder, masked), clean, self.queue)["loss"]

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
        others = of_other_processes(torch.cat([embedded, clean]))
        return self.head.loss(embedded, clean, None, others)["loss"]


def _factor(wrapper: OptimWrapper, one: Tensor) -> Tensor:
    """What a wrapper multiplies a loss by, for accumulation and float16, before its gradient."""
    one = wrapper.scale_loss(one)
    scaler = getattr(wrapper, "loss_scaler", None)
    return one if scaler is None else scaler.scale(one)


def _inner(values: Tensor, gradient: Tensor) -> Tensor:
    """A scalar whose gradient in the values is this one."""
    return (values.float() * gradient.float()).sum()


def _to_log(loss: Tensor, mask_loss: Tensor, penalty: Tensor) -> dict[str, Tensor]:
    losses = {"loss": loss, "mask_loss": mask_loss, "area_penalty": penalty}
    return {name: value.detach() for name, value in losses.items()}


def _two_views(inputs: list[Tensor]) -> list[Tensor]:
    if len(inputs) != 2:
        raise InputError(
            f"ADIOS takes a view to mask and a clean one, but the pipeline gives {len(inputs)}: "
            "set num_views=2 in its MultiView"
        )
    return inputs
