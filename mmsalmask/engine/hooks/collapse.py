"""Signs of collapse that a loss does not show: alike embeddings, twins in the queue, flat maps."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsalmask.checks import check_integer, check_share
from mmsalmask.engine.autocast import wrappers_of
from mmsalmask.engine.hooks.masks import _MaskerHook
from mmsalmask.engine.models import unwrapped
from mmsalmask.registry import HOOKS
from mmsalmask.saliency import informative


@HOOKS.register_module()
class CollapseHook(_MaskerHook):
    """Log signs of collapse that a loss does not show, and warn of each when it appears.

    It adds to the log: ``embedding_spread``, the standard deviation of the neck's ℓ2-normalised
    embeddings of a batch of views, times √dimensions, which is near 1 for embeddings all over the
    sphere and 0 where all images have the same; ``queue_twins%``, the share of the queue's rows
    that it holds twice; ``flat_saliency%``, the share of saliency maps that say nothing, flat or
    not finite. Before training it warns of a queue longer than the data, of a momentum too high for
    the training's length, and of hard negatives that outweigh the queue.

    Args:
        interval: iterations between log lines, that of the ``LoggerHook``.
        spread: warn below this ``embedding_spread``.
        twins: warn above this share of the queue, in [0, 1].
        flat: warn above this share of the maps, in [0, 1].
    """

    priority = "NORMAL"

    def __init__(
        self, interval: int = 50, spread: float = 0.1, twins: float = 0.1, flat: float = 0.5
    ) -> None:
        self.interval = check_integer("interval", interval)
        self.spread = check_share("spread", spread)
        self.twins = check_share("twins", twins)
        self.flat = check_share("flat", flat)
        self._new, self._present = True, [False] * 3

    def before_train(self, runner) -> None:
        super().before_train(runner)
        model = unwrapped(runner.model)
        self._queue = getattr(model, "queue", None)
        sentences = (
            long_queue(self._queue, runner.train_dataloader.dataset),
            slow_keys(getattr(model, "momentum", None), _steps(runner)),
            heavy_hard_negatives(model),
        )
        for sentence in filter(None, sentences):
            runner.logger.warning(sentence)
        self._embedding: Tensor | None = None
        neck = getattr(model, "neck", None)
        self._neck = neck.register_forward_hook(self._keep_embedding) if neck is not None else None

    def after_train(self, runner) -> None:
        super().after_train(runner)
        if self._neck is not None:
            self._neck.remove()

    def wants(self, runner, batch_idx: int) -> bool:
        return self.every_n_inner_iters(batch_idx, self.interval) or self.end_of_epoch(
            runner.train_dataloader, batch_idx
        )

    def _keep_embedding(self, neck: nn.Module, inputs: Any, outputs: Any) -> None:
        if self._wanted and self._embedding is None:  # later ones are hard negatives and crops
            self._embedding = outputs[0] if isinstance(outputs, (list, tuple)) else outputs

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if not self.wants(runner, batch_idx):
            return
        found = {}
        embedding, self._embedding = self._embedding, None
        if embedding is not None and embedding.ndim == 2 and len(embedding) > 1:
            found["embedding_spread"] = spread(embedding.detach())
        if self._queue is not None:
            found["queue_twins%"] = 100 * share_of_twins(self._queue)
        seen = self._take()
        if seen is not None and seen[1].query_saliency is not None:
            told = informative(seen[1].query_saliency)
            found["flat_saliency%"] = 100 * (~told).float().mean()
        if not found:
            return
        values = torch.stack([value.float() for value in found.values()]).tolist()
        found = dict(zip(found, values, strict=True))
        for name, value in found.items():
            runner.message_hub.update_scalar(f"train/{name}", value)
        self._warn(runner.logger, found, (runner.iter + 1) / runner.max_iters)

    def _warn(self, logger, found: dict[str, float], done: float) -> None:
        """Tell each sign when it appears; ``done`` is the share of the training that is over."""
        together = found.get("embedding_spread", 1.0)
        # Those of a new net lie together, and a tenth of the training is theirs to part.
        self._new = self._new and together < self.spread and done < 0.1
        twins, flat = found.get("queue_twins%", 0.0), found.get("flat_saliency%", 0.0)
        signs = (
            (
                not together >= self.spread and not self._new,
                f"the embeddings collapse: their spread is {together:.3f}, near 1 if they use all "
                "directions; lower the learning rate, or check the views",
            ),
            (
                not twins <= 100 * self.twins,
                f"{twins:.0f} % of the queue's rows are there twice: the queue holds more keys "
                "than the data has images, or the encoder tells none apart",
            ),
            (
                not flat <= 100 * self.flat,
                f"{flat:.0f} % of the saliency maps are flat or not finite, and their images "
                "masked at random: check the localizer and the images",
            ),
        )
        for place, (present, sentence) in enumerate(signs):
            if present and not self._present[place]:
                logger.warning(sentence)
            self._present[place] = present


def _steps(runner) -> int:
    """Optimizer steps of the training: in each a momentum encoder moves once."""
    return runner.max_iters // wrappers_of(runner.optim_wrapper)[0]._accumulative_counts


def spread(embeddings: Tensor) -> Tensor:
    """Standard deviation over a batch of ℓ2-normalised (N, D) embeddings, times √D; a scalar."""
    rows = F.normalize(embeddings.float(), dim=1)
    return rows.std(0, unbiased=False).square().sum().sqrt()


def long_queue(queue: Tensor | None, dataset: Any) -> str | None:
    """A warning of a queue (K, D) that holds more keys than a dataset has images."""
    if queue is None or not hasattr(dataset, "__len__") or len(queue) <= len(dataset):
        return None
    fits = 2 ** max(1, len(dataset).bit_length() - 2)  # a quarter to a half of them
    return (
        f"the queue holds {len(queue):,} keys and the data {len(dataset):,} images, so that an "
        f"image's own older keys are among its negatives: set model.queue_len, e.g. {fits}"
    )


def slow_keys(momentum: Any, steps: int) -> str | None:
    """A warning of a momentum encoder that looks back over more than a tenth of the training.

    Args:
        momentum: of ``MaskedMoCo``, in the first and in the last step; anything else is ignored.
        steps: of the training. Fewer than 100 are a trial of something else.
    """
    if not isinstance(momentum, tuple) or momentum[0] == 1 or steps < 100:
        return None
    if _fits(momentum[0], steps):
        return None
    usual = max(each for each in (0.9, 0.99, 0.996) if _fits(each, steps))
    return (
        f"the momentum encoder averages over some {1 / (1 - momentum[0]):,.0f} steps, and this "
        f"training has {steps:,}: its keys stay those of a new net for long; set model.momentum, "
        f"e.g. {usual}, or train longer"
    )


def _fits(momentum: float, steps: int) -> bool:
    return round(steps * (1 - momentum), 6) >= 10


def heavy_hard_negatives(model: nn.Module) -> str | None:
    """A warning of hard negatives that outweigh a queue of K keys long before they are alike.

    In the loss a hard negative of similarity s to its query weighs e^{ρ·s/τ}, K keys unlike it
    about K: as much at s = τ·ln K / ρ. The paper's 1.1 is never reached. Where the net has to push
    its own image's hard negatives below half, it does so instead of spreading its embeddings.

    Args:
        model: anything; only a ``MaskedMoCo`` with hard negatives is looked at.
    """
    masker = getattr(getattr(model, "data_preprocessor", None), "masker", None)
    queue, head = getattr(model, "queue", None), getattr(model, "head", None)
    if queue is None or not getattr(masker, "hard_negatives", 0):
        return None
    if getattr(head, "penalty", 0) <= 0:  # a head of somebody's own may have none
        return None
    whole = head.temperature * math.log(len(queue))
    if whole >= 0.5 * head.penalty:
        return None
    return (
        f"a hard negative outweighs the queue of {len(queue):,} keys from a similarity of "
        f"{whole / head.penalty:.2f} on (model.head.temperature · ln(keys) / penalty; the paper's "
        "recipe has 1.1), so that the embeddings may not spread: set model.head.penalty to "
        f"{whole:.1f} or less, or a higher temperature"
    )


def share_of_twins(rows: Tensor) -> Tensor:
    """The share of (N, D) rows that are equal to another one; a scalar.

    Rows are compared by one random projection: equal rows have equal ones, others almost never.
    """
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(rows.shape[1], generator=generator).to(rows)
    values = (rows * direction).sum(1).sort().values
    equal = values[1:] == values[:-1]
    twin = F.pad(equal, (0, 1)) | F.pad(equal, (1, 0))
    return twin.float().mean()
