"""Checkpoints that are whole or absent, and the newest good one of a folder."""

import hashlib
import re
import zipfile
from collections import deque
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook

from mmsalmask.checks import check_flag, check_integer
from mmsalmask.errors import InputError
from mmsalmask.files import sha256, write_atomically
from mmsalmask.registry import HOOKS

# A zip archive ends with the length of its comment, in two bytes, and the comment.
_COMMENT = b"sha256="
_NO_COMMENT = b"\0\0"
_BEFORE_DIGEST = (len(_COMMENT) + 64).to_bytes(2, "little") + _COMMENT
_END = len(_BEFORE_DIGEST) + 64
_NAMES = re.compile(r"(epoch|iter)_(\d+)\.pth")


def with_digest(archive: bytes) -> bytes:
    """A zip archive, such as torch.save writes, with the SHA-256 of all before it as its comment.

    The digest travels with the file, and readers of zip archives ignore it. Other content, and an
    archive that has a comment already, is returned as it is.
    """
    if archive[:4] != b"PK\3\4" or not _ends_plainly(archive):
        return archive
    digest = hashlib.sha256(archive[:-2]).hexdigest().encode()
    return archive[:-2] + _BEFORE_DIGEST + digest


def _ends_plainly(archive: bytes) -> bool:
    """Whether these last bytes are the end of a zip archive without a comment."""
    return archive[-22:-18] == b"PK\5\6" and archive[-2:] == _NO_COMMENT


def why_damaged(path: str | Path) -> str | None:
    """What is wrong with a checkpoint, or ``None`` if it is as it was written.

    A file with a digest is compared with it. In one without (of an older version, of mmengine), the
    checksums of the zip archive are.
    """
    path = Path(path)
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            file.seek(max(0, size - _END))
            end = file.read()
        if end.startswith(_BEFORE_DIGEST):
            same = sha256(path, size - _END).encode() == end[len(_BEFORE_DIGEST) :]
            return None if same else "its content does not match its digest"
        if not _ends_plainly(end):
            return "its end is missing" if size else "it is empty"
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        return f"its part {broken} is damaged" if broken else None
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        return f"it is truncated or no checkpoint ({error})"


def run_checkpoints(*folders: str | Path) -> list[Path]:
    """The checkpoints of a run, ``epoch_<n>.pth`` and ``iter_<n>.pth``, the last written first."""
    found = []
    for folder in folders:
        for path in Path(folder).glob("*.pth"):
            if match := _NAMES.fullmatch(path.name):
                found.append((path.stat().st_mtime_ns, int(match[2]), path))
    return [path for *_, path in sorted(found, reverse=True)]


class AtomicLocalBackend(LocalBackend):
    """mmengine's local file backend with an atomic :meth:`put`, which adds a digest."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        write_atomically(filepath, with_digest(obj))


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
    full disk both are lost. Here the new file is complete under its name, and was read back, before
    ``last_checkpoint`` points to it, and only then the outdated one, or the former best, is
    deleted.

    Takes ``interval``, ``by_epoch``, ``max_keep_ckpts``, ``save_best`` and the other arguments of
    ``CheckpointHook``, except those that choose a file backend: files are local.

    Raises:
        InputError: for an ``interval`` or ``max_keep_ckpts`` below 1 that is not −1 (no checkpoint
            but the last; no limit), and other invalid settings.
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
        for name, count in (("interval", interval), ("max_keep_ckpts", max_keep_ckpts)):
            if count != -1:
                check_integer(name, count)
        for name, flag in (
            ("by_epoch", by_epoch),
            ("save_optimizer", save_optimizer),
            ("save_param_scheduler", save_param_scheduler),
            ("save_last", save_last),
        ):
            check_flag(name, flag)
        check_integer("save_begin", save_begin, 0)
        if out_dir is not None and not isinstance(out_dir, str | Path):
            raise InputError(f"out_dir must be the path of a folder, got {out_dir!r}")
        try:
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
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"checkpoint hook: {error.args[0]}") from error

    def before_train(self, runner) -> None:
        super().before_train(runner)
        # mmengine forgets it on resuming, and then does not save anew after a best evaluation.
        self.last_ckpt = runner.message_hub.get_info("last_ckpt")
        if is_main_process():
            # What a run left behind that was killed in the middle of a save.
            for part in Path(self.out_dir).glob(".*.pth.*"):
                part.unlink(missing_ok=True)

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
        # Those of a run which was stopped by signals, and went on.
        for stopped in runner.message_hub.pop_info("stop_checkpoints", []):
            path = Path(runner.work_dir) / stopped
            if str(path) != self.last_ckpt and is_main_process():
                path.unlink(missing_ok=True)

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        if not self.save_best:
            return
        former = self._best_files()
        backend, self.file_backend = self.file_backend, _BlindBackend()
        super()._save_best_checkpoint(runner, metrics)
        self.file_backend = backend
        if is_main_process():
            for old in map(Path, former - self._best_files()):
                # A run that has gone on from another's checkpoint leaves that one's files alone.
                if old.parent.resolve() == Path(self.out_dir).resolve():
                    old.unlink(missing_ok=True)

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
