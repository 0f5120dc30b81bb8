"""MoCo v2 with a clean key and hard negatives."""

import copy
import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import get_world_size
from mmengine.logging import MessageHub, print_log
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mmsalmask.algorithms.base import MaskedAlgorithm
from mmsalmask.algorithms.distributed import gather, shuffle_batch, unshuffle_batch
from mmsalmask.algorithms.encoder import embed, kept_statistics
from mmsalmask.algorithms.preprocessor import MaskingDataPreprocessor
from mmsalmask.algorithms.split_norm import split_batch_norm
from mmsalmask.checks import check_flag, check_integer, is_number, is_pair
from mmsalmask.errors import InputError
from mmsalmask.masking import Mixture
from mmsalmask.registry import MODELS


@MODELS.register_module()
class MaskedMoCo(MaskedAlgorithm):
    """Momentum contrast of a masked query with a clean key (He et al. 2020; paper, §3).

    Takes ``inputs = [query, key, hard_negative, …]`` as the masking preprocessor hands them on;
    with two inputs it is plain MoCo v2. It knows nothing of saliency.

    With a symmetric loss each view is the query once and the key once. The preprocessor is told to
    hand on both directions, one behind the other along the batch. Each direction is encoded and
    contrasted with the queue on its own, and the keys of both are then enqueued.

    Where a masked query shows another image (:class:`~mmsalmask.masking.OtherImage`), it has two
    keys: the loss is λ·L(q, k) + (1 − λ)·L(q, k of the other image), λ being the share of pixels
    that is its own, plus, where the clean query comes along, that query's loss (MixMask,
    Vishniakov et al. 2022).

    Local crops of the query are further queries with the same key (multi-crop, Caron et al. 2020):
    the loss is the mean over the query and its crops. They leave BatchNorm's running statistics to
    the whole views.

    The momentum encoder keeps BatchNorm statistics of its own: only parameters are averaged.
    (mmengine's ``ExponentialMovingAverage`` would copy the query encoder's statistics over them at
    every step.) Hard negatives pass it in forwards of their own, so their statistics do not mix
    with the key's, and they are not enqueued.

    Args:
        backbone, neck: configs of the encoder; the neck ends in ``feat_dim`` channels.
        head: config of a head with ``loss(query, key, negatives, hard_negatives)``.
        queue_len: K negatives; need not be a multiple of the batch.
        feat_dim: D.
        momentum: share of the momentum encoder that stays at each step; a pair (start, end) lets it
            follow half a cosine from one to the other over the run, as in BYOL.
        symmetric: the loss is the mean of both directions: view 1 as the query with view 2 as the
            key, and the reverse. Masker and hard negatives follow.
        bn_splits: in a single process, permute the keys and hard negatives and take BatchNorm's
            statistics of this many groups of the batch, in all encoders; 1 for neither. A query and
            its key then hardly share statistics, as over that many processes. Over several
            processes it stays off, for the keys are dealt over them.
        data_preprocessor: config; a ``mmsalmask.MaskingDataPreprocessor`` without a masker where
            there is none.
        init_cfg: as in mmengine.

    Raises:
        InputError: for a queue or a dimension shorter than one, a momentum outside [0, 1], a part
            of the encoder that is missing, groups of an encoder without BatchNorm, or a symmetric
            loss without a ``mmsalmask.MaskingDataPreprocessor``.
    """

    takes_hard_negatives = True
    takes_local_crops = True
    takes_mixtures = True
    # Whether an optimizer step begins with the next batch, as each does but where gradients are
    # accumulated, which the training loop tells. The momentum encoder moves once per step.
    starts_step = True

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        head: dict,
        queue_len: int = 65536,
        feat_dim: int = 128,
        momentum: float | tuple[float, float] = 0.999,
        symmetric: bool = False,
        bn_splits: int = 1,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(backbone, neck, head, data_preprocessor, init_cfg)
        check_integer("queue_len", queue_len)
        check_integer("feat_dim", feat_dim)
        self.momentum = _check_momentum(momentum)
        self.symmetric = check_flag("symmetric", symmetric)
        if symmetric:
            self._ask_for_both_directions()
        self.bn_splits = _possible_splits(check_integer("bn_splits", bn_splits))
        if self.bn_splits > 1:
            split_batch_norm(self._encoder, self.bn_splits)
        self.momentum_encoder = copy.deepcopy(nn.Sequential(self.backbone, self.neck))
        self.momentum_encoder.requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(queue_len, feat_dim), dim=1))
        self.register_buffer("queue_pointer", torch.zeros((), dtype=torch.long))

    def init_weights(self) -> None:
        """Initialise the query encoder and start the momentum encoder as its copy."""
        super().init_weights()
        self.momentum_encoder.load_state_dict(self._encoder.state_dict())

    def _ask_for_both_directions(self) -> None:
        if not isinstance(self.data_preprocessor, MaskingDataPreprocessor):
            raise InputError(
                "symmetric=True needs a preprocessor that hands on both directions: set "
                "model.data_preprocessor.type='mmsalmask.MaskingDataPreprocessor', without a "
                "masker for plain MoCo"
            )
        self.data_preprocessor.both_directions = True

    def loss(
        self,
        inputs: list[Tensor],
        data_samples: list | None = None,
        mixture: Mixture | None = None,
        local_crops: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss and contrast accuracy of a batch; moves the momentum encoder and the queue.

        Args:
            inputs: query and key (N, 3, H, W), then M ≥ 0 hard negatives of that shape; (2N, 3, H,
                W) with a symmetric loss, one direction behind the other.
            data_samples: not used.
            mixture: what the queries are mixed of, if they are; they have no hard negatives then.
            local_crops: (L·N, 3, h, w), further queries, all first ones before all second ones.

        Returns:
            What the head returns, the mean of both directions with a symmetric loss, accuracies
            being the whole queries'; with local crops ``local_accuracy`` is theirs. Of mixed
            queries that come with clean ones, accuracies are the clean ones', and
            ``mixed_accuracy`` is the share of mixed queries closer to their own image's key than to
            any negative.
        """
        self._update_momentum_encoder()
        # The queue moves in place below, the backward pass still needs it as it was.
        negatives = self.queue.clone()
        found, keys = [], []
        for (query_view, key_view, *hard_views), mixed, crops in self._directions(
            inputs, mixture, local_crops
        ):
            query = embed(self._encoder, query_view)
            with torch.no_grad():
                key = self._embed_shuffled(key_view)
                hard = [self._embed_shuffled(view) for view in hard_views]
            if mixed is None:
                hard = torch.stack(hard, dim=1) if hard else None
                found.append(self.head.loss(query, key, negatives, hard))
            else:
                found.append(self._mixed_loss(query, key, negatives, mixed))
            if crops is not None:
                found[-1] |= self._with_crops(found[-1]["loss"], crops, key, negatives)
            keys.append(key)
        self._enqueue(torch.cat(keys))
        return {name: torch.stack([one[name] for one in found]).mean() for name in found[0]}

    def _directions(
        self, inputs: list[Tensor], mixture: Mixture | None, local_crops: Tensor | None
    ) -> list[tuple]:
        """Views, mixture and local crops of each direction that the loss is the mean of."""
        if not self.symmetric:
            return [(inputs, mixture, local_crops)]
        mixtures = (
            [None, None] if mixture is None else [Mixture(*half) for half in _halves(mixture)]
        )
        crops = [None, None] if local_crops is None else local_crops.chunk(2)
        return list(zip(_halves(inputs), mixtures, crops, strict=True))

    def _with_crops(
        self, loss: Tensor, crops: Tensor, key: Tensor, negatives: Tensor
    ) -> dict[str, Tensor]:
        """The loss of the queries joined by that of their crops, and the accuracy of these."""
        number = len(crops) // len(key)
        with kept_statistics([self._encoder]):
            query = embed(self._encoder, crops)
        found = self.head.loss(query, key.repeat(number, 1), negatives)
        return {
            "loss": (loss + number * found["loss"]) / (1 + number),
            "local_accuracy": found["contrast_accuracy"],
        }

    def _mixed_loss(
        self, query: Tensor, key: Tensor, negatives: Tensor, mixture: Mixture
    ) -> dict[str, Tensor]:
        own = self.head.loss(query, key, negatives, None, mixture.kept)
        other = self.head.loss(query, key[mixture.partner], negatives, None, 1 - mixture.kept)
        own["loss"] = own["loss"] + other["loss"]
        if mixture.clean is None:
            return own
        clean = self.head.loss(embed(self._encoder, mixture.clean), key, negatives)
        clean["loss"] = clean["loss"] + own["loss"]
        return {**clean, "mixed_accuracy": own["contrast_accuracy"]}

    def _embed_shuffled(self, views: Tensor) -> Tensor:
        shuffled, order = shuffle_batch(views, alone=self.bn_splits > 1)
        return unshuffle_batch(embed(self.momentum_encoder, shuffled), order)

    @torch.no_grad()
    def _update_momentum_encoder(self) -> None:
        if not self.starts_step:
            return
        average = get_ema_multi_avg_fn(self._momentum_now())
        average(*self._averaged, None)

    @cached_property
    def _averaged(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Parameters of the momentum encoder and of the encoder, in one order.

        Listed once: walking over the modules takes longer than the average itself on a GPU.
        """
        return list(self.momentum_encoder.parameters()), list(self._encoder.parameters())

    def _momentum_now(self) -> float:
        """end − (end − start)·(1 + cos πk/K)/2 in step k of the K that mmengine's runner counts."""
        start, end = self.momentum
        if start == end:
            return start
        hub = MessageHub.get_current_instance()
        steps = hub.get_info("max_iters")
        if steps is None:
            raise InputError(
                f"momentum={self.momentum} changes over the run, but no runner says how long that "
                "is: give one number, or train with mmengine's runner"
            )
        return end - (end - start) * (1 + math.cos(math.pi * hub.get_info("iter", 0) / steps)) / 2

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        """Write the joined batch's keys over the oldest rows; the queue is a ring.

        A key that is not finite leaves the old row, or every loss would be NaN until the ring has
        come round.
        """
        keys = gather(keys)[-len(self.queue) :]
        rows = (self.queue_pointer + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        good = keys.isfinite().all(1, keepdim=True)
        self.queue.index_copy_(
            0, rows, torch.where(good, keys.to(self.queue.dtype), self.queue[rows])
        )
        self.queue_pointer.add_(len(keys)).remainder_(len(self.queue))


def _halves(parts: Iterable[Tensor | None]) -> Iterator[tuple[Tensor | None, ...]]:
    """The first halves of tensors (2N, …), then the second; ``None`` stays."""
    return zip(*((None, None) if part is None else part.chunk(2) for part in parts), strict=True)


def _check_momentum(momentum: Any) -> tuple[float, float]:
    """The share that stays in the first and in the last step."""
    ends = tuple(momentum) if is_pair(momentum) else (momentum, momentum)
    if not all(is_number(end, 0, 1) for end in ends):
        raise InputError(
            "momentum is the share of the momentum encoder that stays, in [0, 1] (0.999 in MoCo "
            f"v2), or a pair of such shares for the first and the last step, got {momentum!r}"
        )
    return ends


def _possible_splits(splits: int) -> int:
    """1 over several processes, which need no groups."""
    if splits == 1 or get_world_size() == 1:
        return splits
    print_log(
        f"bn_splits={splits} is for a single process and stays off: the keys are dealt over the "
        f"{get_world_size()} processes, each of which has BatchNorm statistics of its own",
        "current",
    )
    return 1
