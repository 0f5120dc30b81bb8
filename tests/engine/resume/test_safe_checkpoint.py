"""Checkpoints that are whole or absent, whatever the disk does."""

import errno
import hashlib
import io
import os
import resource
import subprocess
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from running import train_and_close

from mmsalmask.cli import report_errors
from mmsalmask.engine.resume.safe_checkpoint import AtomicLocalBackend, why_damaged, with_digest
from mmsalmask.files import write_atomically

# Big enough that a few checkpoints fill a disk of two megabytes, logs left out of account.
NUMBERS = 100_000


class Model(BaseModel):
    """Its ``weight`` falls by one in every iteration: a checkpoint tells when it was written."""

    def __init__(self, numbers: int = 4):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("ballast", torch.zeros(numbers))

    def forward(self, inputs, mode="tensor"):
        return {"loss": self.weight + 0 * inputs.sum()} if mode == "loss" else [self.weight]


class Metric(BaseMetric):
    """Gives the scores it was made with, one per validation."""

    def __init__(self, scores):
        super().__init__()
        self.scores = list(scores)

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return self.scores.pop(0)


class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"inputs": torch.zeros(1)}


def loader() -> dict:
    return {
        "batch_size": 1,
        "num_workers": 0,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "collate_fn": {"type": "default_collate"},
        "dataset": Data(),
    }


def build(work, epochs, numbers=4, scores=(), resume=None, hooks=(), **options) -> Runner:
    validation = {}
    if scores:
        validation = {
            "val_dataloader": loader(),
            "val_cfg": {},
            "val_evaluator": [Metric(scores)],
        }
    return Runner(
        Model(numbers),
        work_dir=str(work),
        train_dataloader=loader(),
        train_cfg={"by_epoch": True, "max_epochs": epochs},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 1.0}},
        custom_hooks=list(hooks),
        default_hooks={
            "checkpoint": {"type": "mmsalmask.SafeCheckpointHook", **options},
            "logger": {"type": "LoggerHook", "interval": 1000},
        },
        resume=resume is not None,
        load_from=None if resume is None else str(resume),
        experiment_name=f"checkpoint_{np.random.default_rng().integers(2**40)}",
        default_scope="mmengine",
        **validation,
    )


def train(*arguments, **options) -> Runner:
    runner = build(*arguments, **options)
    train_and_close(runner)
    return runner


def scored(*scores: float) -> list[dict]:
    return [{"score": score} for score in scores]


def checkpoints(work: Path) -> list[str]:
    return sorted(path.name for path in work.glob("*.pth"))


def epoch_of(path: Path) -> int:
    """The epoch after which a checkpoint was written, by its weight; it must load."""
    state = torch.load(path, weights_only=False)
    assert state["meta"]["epoch"] * -2 == state["state_dict"]["weight"].item()
    return state["meta"]["epoch"]


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


# ------------------------------------------------------------------------------------ one file


def test_a_file_is_written_with_its_folders(tmp_path):
    write_atomically(tmp_path / "a" / "b" / "c.txt", b"new")
    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == b"new"
    assert os.listdir(tmp_path / "a" / "b") == ["c.txt"]
    (tmp_path / "plain").touch()
    written, plain = (os.stat(tmp_path / name).st_mode for name in ("a/b/c.txt", "plain"))
    assert written == plain  # whoever may read other files here may read this one


def test_an_interrupted_write_leaves_no_file_either(tmp_path, monkeypatch):
    def interrupt(number):
        raise KeyboardInterrupt

    monkeypatch.setattr("mmsalmask.files.os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "c.txt", b"new")
    assert os.listdir(tmp_path) == []


def test_what_the_disk_gives_back_changed_does_not_become_the_file(tmp_path, monkeypatch):
    target, flush = tmp_path / "c.txt", os.fsync
    target.write_bytes(b"old")

    def lose_a_byte(number):
        flush(number)
        os.truncate(next(path for path in tmp_path.iterdir() if path != target), 5)

    monkeypatch.setattr("mmsalmask.files.os.fsync", lose_a_byte)
    with pytest.raises(OSError, match="other content was read back") as caught:
        write_atomically(target, b"newnew")
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(target))
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["c.txt"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_content_and_no_other_file(tmp_path, monkeypatch, step):
    target = tmp_path / "c.txt"
    target.write_bytes(b"old")

    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"mmsalmask.files.os.{step}", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(target, b"new")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(target))
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["c.txt"]


def test_a_reader_never_meets_half_a_file(tmp_path, monkeypatch):
    target, seen = tmp_path / "c.txt", []
    target.write_bytes(b"old")
    sync = os.fsync

    def look(number):
        seen.append(target.read_bytes())
        sync(number)

    monkeypatch.setattr("mmsalmask.files.os.fsync", look)
    write_atomically(target, b"new" * 100)
    assert seen == [b"old", b"new" * 100]  # flushing the file, then its folder
    assert target.read_bytes() == b"new" * 100


def test_a_full_disk_fails_a_write_without_a_trace(small_disk):
    target = small_disk / "c.bin"
    write_atomically(target, b"old" * 1000)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(target, bytes(3 << 20))
    assert caught.value.filename == str(target)
    assert target.read_bytes() == b"old" * 1000
    assert os.listdir(small_disk) == ["c.bin"]
    write_atomically(target, bytes(1 << 20))  # the room of the failed write is free again


def test_a_checkpoint_carries_its_digest_and_other_readers_pass_over_it(tmp_path):
    content = io.BytesIO()
    torch.save({"w": torch.arange(1000.0)}, content)
    path = tmp_path / "epoch_1.pth"
    AtomicLocalBackend().put(content.getvalue(), path)
    for mapped in (False, True):
        read = torch.load(path, weights_only=True, mmap=mapped)
        assert torch.equal(read["w"], torch.arange(1000.0))
    with zipfile.ZipFile(path) as archive:
        comment, before = archive.comment, path.read_bytes()[: -len(archive.comment) - 2]
        assert archive.testzip() is None
    assert comment.decode() == f"sha256={hashlib.sha256(before).hexdigest()}"
    assert why_damaged(path) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"PK\x03\x04 not an archive"])
def test_what_is_no_archive_is_written_as_it_is(tmp_path, content):
    AtomicLocalBackend().put(content, tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == content


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_damage_of_a_checkpoint_is_found(data):
    content = io.BytesIO()
    torch.save({"w": torch.ones(20)}, content)
    good = with_digest(content.getvalue())
    end = len(good) - 1
    place = data.draw(st.integers(0, end) | st.integers(end - 100, end))
    if data.draw(st.booleans()):
        bad = good[:place]
    else:
        bad = bytearray(good)
        bad[place] ^= 1 << data.draw(st.integers(0, 7))
    with tempfile.NamedTemporaryFile() as file:
        file.write(bad)
        file.flush()
        assert why_damaged(file.name) is not None
        Path(file.name).write_bytes(good)
        assert why_damaged(file.name) is None


# ------------------------------------------------------------------------------------ the hook


def test_the_newest_checkpoints_are_kept_and_the_last_is_named(tmp_path):
    train(tmp_path, 5, max_keep_ckpts=2)
    assert checkpoints(tmp_path) == ["epoch_4.pth", "epoch_5.pth"]
    assert [epoch_of(tmp_path / name) for name in checkpoints(tmp_path)] == [4, 5]
    assert (tmp_path / "last_checkpoint").read_text() == str(tmp_path / "epoch_5.pth")
    assert hidden(tmp_path) == []


def test_without_a_limit_all_are_kept(tmp_path):
    train(tmp_path, 5, interval=2)
    assert checkpoints(tmp_path) == ["epoch_2.pth", "epoch_4.pth", "epoch_5.pth"]


def test_an_outdated_checkpoint_is_deleted_only_when_the_new_one_is_complete(tmp_path, monkeypatch):
    unlink, seen = Path.unlink, []

    def look(path, **options):
        if path.suffix == ".pth" and path.exists():
            last = Path((tmp_path / "last_checkpoint").read_text())
            seen.append((path.name, last.name, epoch_of(last)))
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", look)
    train(tmp_path, 3, max_keep_ckpts=1)
    assert seen == [("epoch_1.pth", "epoch_2.pth", 2), ("epoch_2.pth", "epoch_3.pth", 3)]


def test_resuming_forgets_no_file_and_deletes_none_too_many(tmp_path):
    train(tmp_path, 3, max_keep_ckpts=2)
    assert checkpoints(tmp_path) == ["epoch_2.pth", "epoch_3.pth"]
    train(tmp_path, 4, resume=tmp_path / "epoch_3.pth", max_keep_ckpts=2)
    assert checkpoints(tmp_path) == ["epoch_3.pth", "epoch_4.pth"]
    # From an older one: what was newer is written again, and counted once.
    train(tmp_path, 5, resume=tmp_path / "epoch_3.pth", max_keep_ckpts=2)
    assert checkpoints(tmp_path) == ["epoch_4.pth", "epoch_5.pth"]
    assert epoch_of(tmp_path / "epoch_5.pth") == 5
    train(tmp_path, 6, resume=tmp_path / "epoch_5.pth", max_keep_ckpts=1)
    assert checkpoints(tmp_path) == ["epoch_6.pth"]


def test_a_crash_before_the_outdated_one_is_deleted_does_not_keep_it_for_ever(
    tmp_path, monkeypatch
):
    train(tmp_path, 2, max_keep_ckpts=1)

    def crash(path, **options):
        if path.suffix == ".pth":
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", crash)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, 4, resume=tmp_path / "epoch_2.pth", max_keep_ckpts=1)
    monkeypatch.undo()
    assert checkpoints(tmp_path) == ["epoch_2.pth", "epoch_3.pth"]
    train(tmp_path, 4, resume=tmp_path / "epoch_3.pth", max_keep_ckpts=1)
    assert checkpoints(tmp_path) == ["epoch_4.pth"]


def test_the_former_best_is_deleted_only_when_the_new_one_is_complete(tmp_path, monkeypatch):
    options = dict(max_keep_ckpts=1, save_best="score", rule="greater")
    train(tmp_path, 4, scores=scored(1, 2, 0, 3), **options)
    assert checkpoints(tmp_path) == ["best_score_epoch_4.pth", "epoch_4.pth"]
    put = AtomicLocalBackend.put

    def fail_for_best(backend, content, path):
        if "best" in Path(path).name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        put(backend, content, path)

    monkeypatch.setattr(AtomicLocalBackend, "put", fail_for_best)
    with pytest.raises(OSError, match="No space left"):
        train(tmp_path, 5, scores=scored(9), resume=tmp_path / "epoch_4.pth", **options)
    assert checkpoints(tmp_path) == ["best_score_epoch_4.pth", "epoch_5.pth"]
    monkeypatch.undo()
    train(tmp_path, 6, scores=scored(9), resume=tmp_path / "epoch_5.pth", **options)
    assert checkpoints(tmp_path) == ["best_score_epoch_6.pth", "epoch_6.pth"]


def test_two_best_checkpoints_replace_one_another_separately(tmp_path):
    scores = [dict(a=1, b=9), dict(a=2, b=8), dict(a=0, b=7)]
    train(tmp_path, 3, scores=scores, save_best=["a", "b"], rule="greater", interval=9)
    assert checkpoints(tmp_path) == ["best_a_epoch_2.pth", "best_b_epoch_1.pth", "epoch_3.pth"]


# ------------------------------------------------------------------------------------ a full disk


@pytest.mark.parametrize("keep", [1, 3])
def test_a_disk_that_fills_up_costs_no_checkpoint_and_the_run_goes_on_later(small_disk, keep):
    work = small_disk / "work"
    work.mkdir()
    train(work, 1, numbers=NUMBERS, max_keep_ckpts=keep)
    before = (work / "epoch_1.pth").read_bytes()
    others = small_disk / "somebody_elses.bin"
    room = os.statvfs(small_disk)
    others.write_bytes(bytes(room.f_bavail * room.f_frsize - len(before) // 2))
    with pytest.raises(OSError, match="No space left") as caught:
        train(work, 4, numbers=NUMBERS, resume=work / "epoch_1.pth", max_keep_ckpts=keep)
    assert caught.value.errno == errno.ENOSPC
    assert checkpoints(work) == ["epoch_1.pth"]
    assert hidden(work) == []
    assert (work / "epoch_1.pth").read_bytes() == before
    assert (work / "last_checkpoint").read_text() == str(work / "epoch_1.pth")
    others.unlink()
    train(work, 4, numbers=NUMBERS, resume=work / "epoch_1.pth", max_keep_ckpts=keep)
    assert checkpoints(work) == [f"epoch_{i}.pth" for i in range(5 - keep, 5)]
    assert epoch_of(work / "epoch_4.pth") == 4


def test_a_write_that_fails_half_way_costs_no_checkpoint_on_any_disk(tmp_path, monkeypatch):
    train(tmp_path, 2, max_keep_ckpts=2)
    before = {name: (tmp_path / name).read_bytes() for name in checkpoints(tmp_path)}

    def fail(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("mmsalmask.files.os.fsync", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        train(tmp_path, 4, resume=tmp_path / "epoch_2.pth", max_keep_ckpts=2)
    monkeypatch.undo()
    assert caught.value.filename == str(tmp_path / "epoch_3.pth")
    assert {name: (tmp_path / name).read_bytes() for name in checkpoints(tmp_path)} == before
    assert hidden(tmp_path) == []
    assert (tmp_path / "last_checkpoint").read_text() == str(tmp_path / "epoch_2.pth")
    train(tmp_path, 4, resume=tmp_path / "epoch_2.pth", max_keep_ckpts=2)
    assert checkpoints(tmp_path) == ["epoch_3.pth", "epoch_4.pth"]
    assert epoch_of(tmp_path / "epoch_4.pth") == 4


# ------------------------------------------------------------------------------------ other limits


def refused(target: Path, content: bytes, capsys) -> str:
    """The one line that a tool prints when it cannot write."""
    before = target.read_bytes()
    with pytest.raises(SystemExit) as caught, report_errors():
        write_atomically(target, content)
    assert caught.value.code == 2
    assert target.read_bytes() == before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert line.endswith("(a training: with --resume, the last good checkpoint is kept)")
    assert str(target) in line
    return line


def test_a_read_only_disk_is_told_and_keeps_what_is_there(small_disk, capsys):
    target = small_disk / "epoch_1.pth"
    target.write_bytes(b"old")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert "a disk that is read-only" in refused(target, b"new", capsys)
    assert os.listdir(small_disk) == ["epoch_1.pth"]


def test_a_limit_of_file_sizes_is_told_and_keeps_what_is_there(tmp_path, capsys):
    target = tmp_path / "epoch_1.pth"
    target.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        told = refused(target, bytes(100_000), capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "ulimit -f" in told
    assert os.listdir(tmp_path) == ["epoch_1.pth"]


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (errno.EACCES, "no permission"),
        (errno.EPERM, "no permission"),
        (errno.EDQUOT, "quota"),
        (errno.EIO, "fails"),
        (errno.ENOSPC, "no space left"),
    ],
)
def test_whatever_the_system_refuses_is_told_in_its_own_sentence(
    tmp_path, capsys, monkeypatch, number, word
):
    target = tmp_path / "epoch_1.pth"
    target.write_bytes(b"old")

    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("mmsalmask.files.os.replace", fail)
    assert word in refused(target, b"new", capsys)
    assert os.listdir(tmp_path) == ["epoch_1.pth"]


def test_what_a_killed_save_left_behind_is_cleared_away(tmp_path):
    (tmp_path / ".epoch_1.pth.0a1b2c3d").write_bytes(b"half")
    (tmp_path / ".other").write_bytes(b"")
    train(tmp_path, 1)
    assert hidden(tmp_path) == [".other"]
