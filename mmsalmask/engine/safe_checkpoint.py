"""Checkpoints that are whole or absent."""

import os
import tempfile
from collections import deque
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook

from mmsalmask.registry import HOOKS


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file so that a reader, a crash or a full disk finds the old content or the new.

    The content goes to a temporary file beside the target, is flushed to the disk and renamed.

    Raises:
        OSError: as the system reports it, naming ``path``; the temporary file is gone, an older
            target untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = file.name
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


class AtomicLocalBackend(LocalBackend):
    """mmengine's local file backend with an atomic :meth:`put`."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        write_atomically(filepath, obj)


register_backend("atomic", AtomicLocalBackend, force=True)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's checkpoint hook, but a failed save costs nothing.

    mmengine deletes the outdated checkpoint before it writes the new one, and writes in place: on a
    full disk both are lost. Here the new file is complete under its name before ``last_checkpoint``
    points to it, and only then the outdated one is deleted.

    Takes ``interval``, ``by_epoch``, ``max_keep_ckpts``, ``save_best`` and the other arguments of
    ``CheckpointHook``, except those that choose a file backend: files are local.
    """

    def __init__(
        self,
        interval: int = 1,
        by_epoch: bool = True,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        out_dir: str | None = None,
        max_keep_ckpts: int = -1,
        save_last: bool = True,
        save_best: str | list[str] | None = None,
        rule: str | list[str] | None = None,
        save_begin: int = 0,
    ) -> None:
        super().__init__(
            interval=interval,
            by_epoch=by_epoch,
            save_optimizer=save_optimizer,
            save_param_scheduler=save_param_scheduler,
            out_dir=out_dir,
            max_keep_ckpts=max_keep_ckpts,
            save_last=save_last,
            save_best=save_best,
            rule=rule,
            save_begin=save_begin,
            backend_args=dict(backend="atomic"),
        )

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict) -> None:
        name = self.filename_tmpl.format(step)
        self.last_ckpt = str(Path(self.out_dir) / name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        outdated = self._keep(runner, step)
        runner.save_checkpoint(
            self.out_dir,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
        )
        if is_main_process():
            write_atomically(Path(runner.work_dir) / "last_checkpoint", self.last_ckpt.encode())
            for old in outdated:
                (Path(self.out_dir) / self.filename_tmpl.format(old)).unlink(missing_ok=True)

    def _keep(self, runner, step: int) -> list[int]:
        """Note ``step`` as kept, in the message hub too; return the steps that are now outdated."""
        if self.max_keep_ckpts <= 0:
            return []
        steps = [*(kept for kept in self.keep_ckpt_ids if kept != step), step]
        self.keep_ckpt_ids = deque(steps[-self.max_keep_ckpts :])
        runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))
        return steps[: -self.max_keep_ckpts]
