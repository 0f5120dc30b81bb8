"""One run at a time in a work directory, however the one before ended."""

import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest
from mmengine import Config

from mmsalmask.engine.launch import own_work_dir
from mmsalmask.engine.ownership import owned
from mmsalmask.engine.resume.safe_checkpoint import AtomicLocalBackend
from mmsalmask.errors import InputError


@pytest.fixture
def run_elsewhere(tmp_path):
    """A process that owns ``tmp_path``, and has a child that outlives it, as workers may."""
    ready, tell = os.pipe()
    owner = os.fork()
    if owner == 0:
        with owned(tmp_path):
            worker = os.fork()
            if worker:
                os.write(tell, worker.to_bytes(4, "little"))
            time.sleep(120)
        os._exit(0)
    worker = int.from_bytes(os.read(ready, 4), "little")
    yield owner
    os.kill(worker, signal.SIGKILL)
    with suppress(ProcessLookupError):  # a test may have killed it
        kill(owner)


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def config(work_dir: Path, **entries) -> Config:
    return Config({"work_dir": str(work_dir), "launcher": "none", **entries})


def test_a_second_run_is_told_whose_the_folder_is_and_gets_it_when_the_first_dies(
    tmp_path, run_elsewhere
):
    for _ in range(2):  # being refused changes nothing
        with pytest.raises(InputError) as caught, own_work_dir(config(tmp_path)):
            pass
        told = str(caught.value)
        assert told.startswith(f"{tmp_path} is in use by process {run_elsewhere} on ")
        assert socket.gethostname() in told
        assert told.endswith("or choose another --work-dir")
    kill(run_elsewhere)
    with own_work_dir(config(tmp_path)):
        assert f'"process": {os.getpid()},' in (tmp_path / ".lock").read_text()
    assert (tmp_path / ".lock").read_text() == ""


def test_the_first_process_owns_the_folder_for_all_of_its_run(tmp_path, run_elsewhere, monkeypatch):
    for launcher, name in (("pytorch", "RANK"), ("slurm", "SLURM_PROCID")):
        monkeypatch.setenv(name, "1")
        with own_work_dir(config(tmp_path, launcher=launcher)):
            pass
        monkeypatch.setenv(name, "0")
        with pytest.raises(InputError, match="is in use"):
            own_work_dir(config(tmp_path, launcher=launcher)).__enter__()


def test_a_run_does_not_mix_with_one_that_it_does_not_resume(tmp_path):
    work, out = tmp_path / "work", tmp_path / "out"
    hooks = {"checkpoint": {"out_dir": str(out)}}
    for folder, entries in ((work, {}), (out / "work", {"default_hooks": hooks})):
        (work / "20260101_000000").mkdir(parents=True, exist_ok=True)  # logs alone mix with nothing
        with own_work_dir(config(work, **entries)):
            pass
        content = folder / "epoch_2.pth"
        AtomicLocalBackend().put(b"", content)
        with pytest.raises(InputError) as caught, own_work_dir(config(work, **entries)):
            pass
        assert str(caught.value) == (
            f"{work} holds a run already, up to epoch_2.pth: resume it (--resume; in Python "
            "resume=True), or choose another --work-dir"
        )
        with own_work_dir(config(work, resume=True, **entries)):
            pass
        content.unlink()
