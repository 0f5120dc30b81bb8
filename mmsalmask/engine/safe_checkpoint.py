"""Checkpoints that are whole or absent."""

import os
import secrets
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
    # Not by the tempfile module: its files are readable by their owner alone, and stay so.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


class AtomicLocalBackend(LocalBackend):
    """mmengine's local file backend with an atomic :meth:`put`."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        write_atomically(filepath, obj)


class _BlindBackend(AtomicLocalBackend):
    """Finds no file: mmengine would delete the former best before it writes the new one."""

    def isfile(self, filepath: str | Path) -> bool:
        return False

    def isdir(self, filepath: str | Path) -> bool:
        return False


register_backend("atomic", AtomicLocalBackend, force=True)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's checkpoint hook, but a failed save costs nothing.

    mmengine deletes the outdated checkpoint before it writes the new one, and writes in place: on a
    full disk both are lost. Here the new file is complete under its name before ``last_checkpoint``
    points to it, and only then the outdated one, or the former best, is deleted.

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

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        if not self.save_best:
            return
        former = self._best_files()
        backend, self.file_backend = self.file_backend, _BlindBackend()
        super()._save_best_checkpoint(runner, metrics)
        self.file_backend = backend
        if is_main_process():
            for old in former - self._best_files():
                Path(old).unlink(missing_ok=True)

    def _best_files(self) -> set[str]:
        one = len(self.key_indicators) == 1
        files = [self.best_ckpt_path] if one else self.best_ckpt_path_dict.values()
        return {file for file in files if file}

    def _keep(self, runner, step: int) -> list[int]:
        """Note ``step`` as kept, in the message hub too; return the steps that are now outdated."""
        if self.max_keep_ckpts <= 0:
            return []
        steps = [*(kept for kept in self.keep_ckpt_ids if kept != step), step]
        self.keep_ckpt_ids = deque(steps[-self.max_keep_ckpts :])
        # With the outdated ones: should the run die before they are deleted, a resumed one does it.
        runner.message_hub.update_info("keep_ckpt_ids", steps)
        return steps[: -self.max_keep_ckpts]
