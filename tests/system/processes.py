"""Trainings in processes of their own: started, watched, killed."""

import importlib
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mmsalmask.commands import train
from mmsalmask.engine.resume.safe_checkpoint import run_checkpoints

# Imported here, once for all processes.
for _name in ("mmpretrain.engine", "mmpretrain.visualization", "torch.utils.tensorboard"):
    importlib.import_module(_name)


def start(config: Path, work: Path, *words: str, rank: str = "", **environment: str) -> int:
    """Fork a process that is ``python tools/train.py CONFIG --work-dir WORK WORDS``; its id.

    Forked, because importing everything takes longer than such a run. What it prints is in
    ``<work><rank>.txt``.
    """
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        os.environ.update(environment)
        text = work.with_name(f"{work.name}{rank}.txt")
        output = os.open(text, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(output, stream)
        sys.argv = ["tools/train.py", str(config), "--verbose", "--work-dir", str(work), *words]
        train.main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def start_ranks(config: Path, work: Path, number: int, *words: str) -> list[int]:
    """So many processes of one run, joined by gloo, as torchrun would start them; their ids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(number):
        environment = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=number, LOCAL_WORLD_SIZE=number)
        environment.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        environment = {name: str(value) for name, value in environment.items()}
        words_of_all = [*words, "--launcher", "pytorch"]
        name = f"_{rank}" if rank else ""
        children.append(start(config, work, *words_of_all, rank=name, **environment))
    return children


def wait(child: int, seconds: float, until: Callable[[], bool] = lambda: False) -> int | None:
    """Its exit status, or ``None`` if it still runs after so long, or when ``until`` comes true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not until():
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    return None


def kill(child: int) -> None:
    """SIGKILL; the process can do nothing about it."""
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def run_through(config: Path, work: Path, *words: str, seconds: float = 600) -> None:
    """Run to the end, which has to be a good one and come in so many seconds."""
    expect_good_end(work, wait(start(config, work, *words), seconds))


def expect_good_end(work: Path, status: int | None) -> None:
    if status != 0:
        tail = work.with_suffix(".txt").read_text()[-3000:]
        raise SystemExit(f"{work} ended with status {status}:\n{tail}")


def resume_or_begin(work: Path) -> list[str]:
    """The words to resume with; a run that was killed before its first checkpoint begins anew."""
    if run_checkpoints(work):
        return ["--resume"]
    shutil.rmtree(work, ignore_errors=True)
    return []


def watch_training(work: Path) -> Callable[[], bool]:
    """Tells whether the run that is started next has logged an iteration."""
    text = work.with_suffix(".txt")
    seen = text.stat().st_size if text.exists() else 0
    return lambda: text.exists() and b"(train)" in text.read_bytes()[seen:]


def saving(work: Path) -> bool:
    """Whether a checkpoint is being written: its temporary file is there, not yet renamed."""
    return any(work.glob(".*.pth.*"))


def evaluating(work: Path) -> bool:
    """Whether the last line that was logged is one inside of an evaluation."""
    text = work.with_suffix(".txt")
    last = text.read_text().rstrip().rpartition("\n")[2] if text.exists() else ""
    return "(val)" in last and "accuracy" not in last
