"""NaN and infinity stay out of the weights, and are reported."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, get_rank
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from torch import Tensor
from torch.optim import Optimizer

from mmsalmask.checks import check_integer
from mmsalmask.engine.autocast import wrappers_of
from mmsalmask.engine.resume.weights import batch_norm
from mmsalmask.errors import InputError
from mmsalmask.provenance import write_result
from mmsalmask.registry import HOOKS

_SKIPPED = "nonfinite_steps"
# What float16 gradients of any use are scaled by is larger by orders of magnitude.
_LEAST_SCALE = 2.0**-14


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Keep NaN and infinity out of the weights, report where they came from, and stop if they last.

    Gradients are checked on their device before each step of an optimizer. If any is not finite,
    all are set to zero, and the optimizer moves by its momentum and weight decay alone. The running
    statistics of BatchNorm, which a bad batch enters before it has a gradient, go back to those of
    the last look where they are not finite. Nothing waits for the device.

    Every ``interval`` iterations the hook looks at the marks made there, and describes each marked
    iteration in ``work_dir/nonfinite/iter_<n>_rank_<r>.json``: its files, loss, largest gradient,
    learning rate and loss scale. Steps that float16's loss scaling skips do not count, unless the
    scale falls towards zero.

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
        found = batch_norm(runner.model).values()
        self._statistics = [value for value in found if value.is_floating_point()]
        self._kept = [value.clone() for value in self._statistics]

    def before_weights_are_checked(self, runner) -> None:
        """Called by the runner before it saves."""
        self._mend_statistics()

    def after_train_epoch(self, runner) -> None:
        """Before an evaluation."""
        self._mend_statistics()

    @torch.no_grad()
    def _mend_statistics(self) -> None:
        for value, kept in zip(self._statistics, self._kept, strict=True):
            kept.copy_(torch.where(value.isfinite(), value, kept))
            value.copy_(kept)

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
        self._mend_statistics()
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
                f"the loss scale has fallen to {scale:.1e}, because the gradients are not finite "
                "at any scale: lower the learning rate, or train in bfloat16 or float32"
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
            f"not finite; these gradients were set to zero: see {folder}"
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
