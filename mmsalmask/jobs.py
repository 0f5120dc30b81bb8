"""Commands that run commands: a process per job, a job per GPU, each in a folder of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

import torch

from mmsalmask.errors import InputError
from mmsalmask.provenance import write_result

Key = TypeVar("Key")


class Place(NamedTuple):
    """Where a job runs: on this GPU, or on the CPU, whose cores it shares with ``jobs`` in all."""

    gpu: str | None
    jobs: int


def claim(folder: Path, identity: Mapping[str, Any], option: str = "--work-dir") -> None:
    """Make a folder that of one job, in its ``run.json``.

    Args:
        folder: made if needed.
        identity: JSON values that tell this job from every other.
        option: of the tool, by which another folder is chosen.

    Raises:
        InputError: the folder is that of another job.
    """
    file = folder / "run.json"
    if not file.exists():
        write_result(file, dict(identity))
        return
    found = json.loads(file.read_text())
    for key in {**found, **identity}:
        if found.get(key) != identity.get(key):
            told = f"{key} = {found.get(key)!r}, not {identity.get(key)!r}"
            if isinstance(identity.get(key), Mapping):  # holds digests, which tell nobody anything
                told = f"another {key}"
            raise InputError(
                f"{folder} holds a run with {told}: choose another {option}, or delete that folder"
            )


def call(command: str, *words: object, log: Path | None = None, place: Place | None = None) -> None:
    """Run ``mmsalmask <command> <words>`` in a process of its own, and wait for its end.

    Args:
        command: a name of ``mmsalmask.__main__.COMMANDS``.
        words: its arguments.
        log: what it prints is appended to this file, and its process is named in
            ``<log's name>.pid``, see :func:`wait_for`. ``None`` shows it in the terminal.
        place: the GPU and the share of the cores that it gets; ``None`` for all.

    Raises:
        InputError: it failed; tells the last line that it printed into the log.
    """
    environment = dict(os.environ)
    if place is not None:
        # Jobs that share cores lose more to each other's waiting threads than they gain by them.
        threads = max(1, (os.cpu_count() or 1) // place.jobs)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
        if place.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = place.gpu
    started = [sys.executable, "-m", "mmsalmask", command, *map(str, words)]
    if log is None:
        if status := subprocess.run(started, env=environment).returncode:
            raise InputError(f"{command} ended with status {status}; see its output above")
        return
    with log.open("a") as file:
        process = subprocess.Popen(started, stdout=file, stderr=subprocess.STDOUT, env=environment)
        log.with_suffix(".pid").write_text(str(process.pid))
        status = process.wait()
    if status:
        last = log.read_text(errors="replace").strip().rpartition("\n")[2]
        raise InputError(f"{command} ended with status {status}: {last} (all of it in {log})")


def show(command: Sequence[str]) -> tuple[int, str]:
    """Run a command, pass on what it prints line by line, and return its status and last line.

    A notebook shows what this process prints alone, not what others do.
    """
    last = ""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            last = line.strip() or last
            print(line, end="", flush=True)
    return process.returncode, last


def wait_for(log: Path) -> None:
    """Wait until no command of an earlier call works for this log's folder.

    One whose caller was killed goes on, and two of them would write the same checkpoints. It is
    looked for in ``/proc``; where there is none, nothing is waited for.
    """
    file, told = log.with_suffix(".pid"), False
    while file.exists() and _works_for(file.read_text(), log.parent):
        if not told:
            print(f"waiting for an earlier call's process {file.read_text()}", file=sys.stderr)
        told = True
        time.sleep(0.2)


def _works_for(process: str, folder: Path) -> bool:
    """Whether a process has the folder in its command line, so is no other of the same number."""
    try:
        return str(folder).encode() in Path("/proc", process, "cmdline").read_bytes()
    except OSError:
        return False


def visible_gpus() -> list[str]:
    """The names by which ``CUDA_VISIBLE_DEVICES`` knows the GPUs that this process may use."""
    count = torch.cuda.device_count()
    chosen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (chosen or [str(index) for index in range(count)])[:count]


def run_all(
    pending: Mapping[Key, Callable[[Place], dict]], jobs: int
) -> Iterator[tuple[Key, dict | str]]:
    """Run all that is pending, so many jobs at a time, each on the next GPU that is free.

    Args:
        pending: what to run, by a key; started in this order. Each gets the place at which it runs.

    Yields:
        Key and result, or the sentence of its :class:`InputError`, of each job as it ends. Any
        other error ends everything.
    """
    places: SimpleQueue[Place] = SimpleQueue()
    gpus = visible_gpus() or [None]
    for job in range(jobs):
        places.put(Place(gpus[job % len(gpus)], jobs))

    def at_a_place(run: Callable[[Place], dict]) -> dict:
        place = places.get()
        try:
            return run(place)
        finally:
            places.put(place)

    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(at_a_place, run): key for key, run in pending.items()}
        try:
            for future in as_completed(futures):
                error = future.exception()
                if error is not None and not isinstance(error, InputError):
                    raise error
                yield futures[future], future.result() if error is None else str(error)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
