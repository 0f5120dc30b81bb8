"""Numbers that must not go wrong unnoticed: non-finite steps, collapse, twins, flat maps."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce, get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from torch import Tensor, nn
from torch.optim import Optimizer

from mmsalmask.checks import check_integer, check_share
from mmsalmask.engine.autocast import wrappers_of
from mmsalmask.engine.hooks.masks import _MaskerHook
from mmsalmask.errors import InputError
from mmsalmask.provenance import write_result
from mmsalmask.registry import HOOKS
from mmsalmask.saliency import informative

_SKIPPED = "nonfinite_steps"
# What float16 gradients of any use are scaled by is larger by orders of magnitude.
_LEAST_SCALE = 2.0**-14


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Keep NaN and infinity out of the weights, report where they came from, and stop if they last.

    Gradients are checked on their device before each step of an optimizer. If any is not finite,
    all are set to zero, and the optimizer moves by its momentum and weight decay alone.
    Nothing waits for the device. Every ``interval`` iterations the marks made there are read, and
    each marked iteration is described in ``work_dir/nonfinite/iter_<n>_rank_<r>.json``: its files,
    loss, largest gradient, learning rate and loss scale. Steps that float16's loss scaling skips do
    not count, unless the scale falls towards zero.

    Args:
        limit: how many such iterations of a run are tolerated.
        interval: iterations between two looks.

    Raises:
        InputError: there were more, or the loss scale fell towards zero; in all processes at the
            same iteration.
    """

    priority = "NORMAL"

    def __init__(self, limit: int = 10, interval: int = 50) -> None:
        self.limit = check_integer("limit", limit, 0)
        self.interval = check_integer("interval", interval)

    def before_train(self, runner) -> None:
        self._handles = [
            wrapper.optimizer.register_step_pre_hook(self._drop_bad_gradients)
            for wrapper in wrappers_of(runner.optim_wrapper)
        ]
        self._files: list[list[str]] = []
        # One per iteration since the last look: its loss, and its largest gradient.
        self._losses: list[Tensor] = []
        self._gradients: list[Tensor | None] = []
        self._largest: Tensor | None = None

    def after_train(self, runner) -> None:
        self._look(runner, runner.iter)
        for handle in self._handles:
            handle.remove()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        losses = {key: value for key, value in (outputs or {}).items() if "loss" in key}
        if isinstance(losses.get("loss"), Tensor):
            # A part that is not finite shows in the sum, a finite one does not.
            parts = sum(0 * part.detach().float().mean() for part in losses.values())
            self._losses.append(losses["loss"].detach().float() + parts)
            self._gradients.append(self._largest)
            self._files.append(list(_file_names(data_batch)))
        self._largest = None
        if self.every_n_train_iters(runner, self.interval):
            self._look(runner, runner.iter + 1)

    @torch.no_grad()
    def _drop_bad_gradients(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if getattr(optimizer, "found_inf", None) is not None:
            return  # fused and scaled: it is about to skip the step by itself
        groups = optimizer.param_groups
        gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        if not gradients:
            return
        # Not the 2-norm, whose squares overflow where the gradients do not.
        largest = torch.stack(torch._foreach_norm(gradients, float("inf"))).amax()
        before = self._largest
        self._largest = largest if before is None else torch.maximum(before, largest)
        bad = ~largest.isfinite()
        if bad.device.type == "cpu" and not bad:  # looking costs nothing there
            return
        for gradient in gradients:
            gradient.masked_fill_(bad, 0)

    def _look(self, runner, iteration: int) -> None:
        if not self._losses:
            return
        losses = torch.stack(self._losses)
        absent = losses.new_zeros(())
        gradients = torch.stack([absent if one is None else one for one in self._gradients])
        bad = (~(losses.isfinite() & gradients.isfinite())).to(torch.uint8)
        all_reduce(bad, "max")
        first = iteration - len(losses) + 1
        found = bad.nonzero().flatten().tolist()
        for i in found:
            figures = losses[i].item(), gradients[i].item()
            self._describe(runner, first + i, self._files[i], *figures)
        self._losses, self._gradients, self._files = [], [], []
        if (scale := min(_scales(runner.optim_wrapper), default=1)) < _LEAST_SCALE:
            raise InputError(
                f"the loss scale has fallen to {scale:.1e}, for gradients are not finite whatever "
                "it is: lower the learning rate, or train in bfloat16 or float32"
            )
        if not found:
            return
        hub = runner.message_hub
        hub.update_info(_SKIPPED, hub.get_info(_SKIPPED, 0) + len(found))
        folder = Path(runner.work_dir) / "nonfinite"
        if hub.get_info(_SKIPPED) > self.limit:
            raise InputError(
                f"{hub.get_info(_SKIPPED)} iterations had a loss or gradients that are not "
                f"finite, more than the {self.limit} that NonFiniteHook tolerates: lower the "
                f"learning rate, or train in bfloat16 or float32; the batches are described in "
                f"{folder}"
            )
        runner.logger.warning(
            f"{len(found)} of the last {len(losses)} iterations had a loss or gradients that are "
            f"not finite, and were skipped: see {folder}"
        )

    def _describe(self, runner, number: int, files: list[str], loss: float, largest: float) -> None:
        wrappers = wrappers_of(runner.optim_wrapper)
        path = Path(runner.work_dir) / "nonfinite" / f"iter_{number}_rank_{get_rank()}.json"
        parameters = [p.detach() for p in runner.model.parameters()]
        facts = {
            "iteration": number,
            "loss": loss,
            "largest_gradient": largest,
            "learning_rate": [w.optimizer.param_groups[0]["lr"] for w in wrappers],
            "loss_scale": _scales(runner.optim_wrapper),
            "weights_norm_now": torch.stack(torch._foreach_norm(parameters)).norm().item(),
            "files": files,
        }
        # JSON has no NaN and no infinity.
        plain = {k: repr(v) if isinstance(v, float) and v - v != 0 else v for k, v in facts.items()}
        write_result(path, plain)


def _scales(wrapper: OptimWrapper | OptimWrapperDict) -> list[float]:
    each = (one for one in wrappers_of(wrapper) if isinstance(one, AmpOptimWrapper))
    return [one.loss_scaler.get_scale() for one in each]


def _file_names(batch: Any) -> Iterable[str]:
    samples = batch.get("data_samples") if isinstance(batch, dict) else None
    for sample in samples or []:
        yield str(getattr(sample, "img_path", "unknown"))


@HOOKS.register_module()
class CollapseHook(_MaskerHook):
    """Log signs of collapse that a loss does not show, and warn of each when it appears.

    It adds to the log: ``embedding_spread``, the standard deviation of the neck's ℓ2-normalised
    embeddings over a batch, times √dimensions, which is near 1 for embeddings all over the sphere
    and 0 where all images have the same; ``queue_twins%``, the share of the queue's rows that it
    holds twice; ``flat_saliency%``, the share of saliency maps that say nothing, flat
    or not finite. Before training it warns of a momentum too high for its length.

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
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._queue = getattr(model, "queue", None)
        sentences = (
            slow_keys(getattr(model, "momentum", None), runner.max_iters),
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
        return self.every_n_inner_iters(batch_idx, self.interval)

    def _keep_embedding(self, neck: nn.Module, inputs: Any, outputs: Any) -> None:
        if self._wanted:
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


def spread(embeddings: Tensor) -> Tensor:
    """Standard deviation over a batch of ℓ2-normalised (N, D) embeddings, times √D; a scalar."""
    rows = F.normalize(embeddings.float(), dim=1)
    return rows.std(0, unbiased=False).square().sum().sqrt()


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
    if queue is None or not getattr(masker, "hard_negatives", 0) or head.penalty <= 0:
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
