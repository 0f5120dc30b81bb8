"""MoCo v2 with a clean key and hard negatives."""

import copy

import torch
import torch.nn.functional as F
from mmpretrain.models import BaseSelfSupervisor
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mmsalmask.checks import check_integer, is_number
from mmsalmask.errors import InputError
from mmsalmask.models.distributed import gather, shuffle_batch, unshuffle_batch
from mmsalmask.models.encoder import check_encoder
from mmsalmask.registry import MODELS


@MODELS.register_module()
class MaskedMoCo(BaseSelfSupervisor):
    """Momentum contrast of a masked query with a clean key (He et al. 2020; paper, §3).

    Takes ``inputs = [query, key, hard_negative, …]`` as the masking preprocessor hands them on;
    with two inputs it is plain MoCo v2. It knows nothing of saliency.

    The momentum encoder keeps BatchNorm statistics of its own: only parameters are averaged.
    (mmengine's ``ExponentialMovingAverage`` would copy the query encoder's statistics over them at
    every step.) Hard negatives pass it in forwards of their own, so their statistics do not mix
    with the key's, and they are not enqueued.

    Args:
        backbone, neck: configs of the encoder; the neck ends in ``feat_dim`` channels.
        head: config of a head with ``loss(query, key, negatives, hard_negatives)``.
        queue_len: K negatives; need not be a multiple of the batch.
        feat_dim: D.
        momentum: share of the momentum encoder that stays at each step.
        data_preprocessor: config; a ``mmsalmask.MaskingDataPreprocessor`` without a masker where
            there is none.
        init_cfg: as in mmengine.

    Raises:
        InputError: for a queue or a dimension shorter than one, a momentum outside [0, 1], or a
            part of the encoder that is missing.
    """

    takes_hard_negatives = True  # configs that make them for other algorithms are refused
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
        momentum: float = 0.999,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        check_encoder(backbone, neck, head)
        super().__init__(
            backbone=backbone,
            neck=neck,
            head=head,
            data_preprocessor=data_preprocessor or dict(type="mmsalmask.MaskingDataPreprocessor"),
            init_cfg=init_cfg,
        )
        check_integer("queue_len", queue_len)
        check_integer("feat_dim", feat_dim)
        if not is_number(momentum, 0, 1):
            raise InputError(
                f"momentum is the share of the momentum encoder that stays, in [0, 1] "
                f"(0.999 in MoCo v2), got {momentum!r}"
            )
        self.momentum_encoder = copy.deepcopy(nn.Sequential(self.backbone, self.neck))
        self.momentum_encoder.requires_grad_(False)
        self._average = get_ema_multi_avg_fn(momentum)
        self.register_buffer("queue", F.normalize(torch.randn(queue_len, feat_dim), dim=1))
        self.register_buffer("queue_pointer", torch.zeros((), dtype=torch.long))

    def init_weights(self) -> None:
        """Initialise the query encoder and start the momentum encoder as its copy."""
        super().init_weights()
        self.momentum_encoder.load_state_dict(self._encoder.state_dict())

    @property
    def _encoder(self) -> nn.Sequential:
        return nn.Sequential(self.backbone, self.neck)

    def loss(self, inputs: list[Tensor], data_samples: list | None = None) -> dict[str, Tensor]:
        """Loss and contrast accuracy of a batch; moves the momentum encoder and the queue.

        Args:
            inputs: query and key (N, 3, H, W), then M ≥ 0 hard negatives of that shape.
            data_samples: not used.
        """
        query_view, key_view, *hard_views = inputs
        query = _embed(self._encoder, query_view)
        with torch.no_grad():
            self._update_momentum_encoder()
            key = self._embed_shuffled(key_view)
            hard = [self._embed_shuffled(view) for view in hard_views]
        losses = self.head.loss(
            query,
            key,
            # The queue moves in place below, the backward pass still needs it as it was.
            self.queue.clone(),
            torch.stack(hard, dim=1) if hard else None,
        )
        self._enqueue(key)
        return losses

    def _embed_shuffled(self, views: Tensor) -> Tensor:
        shuffled, order = shuffle_batch(views)
        return unshuffle_batch(_embed(self.momentum_encoder, shuffled), order)

    @torch.no_grad()
    def _update_momentum_encoder(self) -> None:
        if self.starts_step:
            self._average(
                list(self.momentum_encoder.parameters()), list(self._encoder.parameters()), None
            )

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        """Write the joined batch's keys over the oldest rows; the queue is a ring."""
        keys = gather(keys)[-len(self.queue) :]
        rows = (self.queue_pointer + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue.index_copy_(0, rows, keys.to(self.queue.dtype))
        self.queue_pointer.add_(len(keys)).remainder_(len(self.queue))


def _embed(encoder: nn.Module, views: Tensor) -> Tensor:
    """ℓ2-normalised float32 embeddings (N, D)."""
    (embedding,) = encoder(views)
    return F.normalize(embedding.float(), dim=1)
