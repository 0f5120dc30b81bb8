"""Logging that does not make a step wait for the device."""

import torch
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from mmengine.runner import Runner
from torch import Tensor

from mmsalmask.registry import HOOKS

_KEPT = 10_000


@HOOKS.register_module()
class DeferredRuntimeInfoHook(RuntimeInfoHook):
    """mmengine's ``RuntimeInfoHook``, but losses stay on the device until somebody reads them.

    mmengine asks the device for every logged value at every iteration, and each time the host
    waits until all work queued so far is done. Here the values of all iterations between two log
    lines come over in one transfer, before the ``LoggerHook`` writes and before a checkpoint is
    saved. What is logged and smoothed is the same.

    mmengine also keeps every value of a run, copies all of them to add one, and writes them into
    each checkpoint: in a week these are seconds and hundreds of megabytes. Here the last 10,000 of
    a name are kept, or as many as a window of the log processor wants.
    """

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        self._pending: list[tuple[list[str], Tensor]] = []
        intervals = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
        self._interval = min(intervals, default=1)
        log = runner.log_processor
        windows = [log.window_size, *(custom.get("window_size", 1) for custom in log.custom_cfg)]
        # ``epoch`` and ``global`` are windows, too.
        limited = all(isinstance(window, int) for window in windows)
        self._kept = max(_KEPT, *windows) if limited else None

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if outputs:
            values = [torch.as_tensor(value).detach() for value in outputs.values()]
            device = next((v.device for v in values if v.is_cuda), torch.device("cpu"))
            row = torch.stack([v.reshape(()).to(device, torch.float64) for v in values])
            self._pending.append(([f"train/{name}" for name in outputs], row))
        logged = self.every_n_inner_iters(batch_idx, self._interval)
        if logged or self.end_of_epoch(runner.train_dataloader, batch_idx):
            self._flush(runner)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        self._flush(runner)
        checkpoint["message_hub"] = runner.message_hub.state_dict()

    def _flush(self, runner: Runner) -> None:
        """Hand the pending values to the message hub, in the order they came."""
        rows, self._pending = self._pending, []
        if not rows:
            return
        values = iter(torch.cat([row for _, row in rows]).tolist())
        for names, _ in rows:
            for name in names:
                runner.message_hub.update_scalar(name, next(values))
        if self._kept is not None:
            for history in runner.message_hub.log_scalars.values():
                history.max_length = self._kept
