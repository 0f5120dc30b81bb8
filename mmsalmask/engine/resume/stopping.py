"""Stop when asked to: at the end of an iteration, saved, all processes at the same one."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import torch
from mmengine.dist import get_world_size
from torch import distributed

# Terminals send INT, schedulers TERM; Slurm can be told to send USR1 some minutes before TERM.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# One order may reach a process twice, from the terminal and from its launcher.
_ECHO_SECONDS = 1.0
_WORKER_SECONDS = 30  # as long as Slurm waits before it kills


# The handlers that an entered StopSignals has replaced. Forked children get them back: a pool ends
# its workers by SIGTERM, as mmdet's VOC metric does, and waits for ever for one that lives on.
_replaced: dict[int, Any] = {}


def _before_fork() -> None:
    # Python forgets what reaches a child before it is set up; blocked signals wait until it is.
    if _replaced:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _after_fork() -> None:
    if _replaced:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _after_fork_in_child() -> None:
    for number, handler in _replaced.items():
        signal.signal(number, handler)
    _after_fork()
    _replaced.clear()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child
)


class StopSignals:
    """While entered, SIGTERM, SIGINT and SIGUSR1 only make :meth:`asked` true.

    A second signal, more than a second after the first, ends the process at once with status
    128 + its number. Enter it in all processes of a run, in their main threads: Python hands no
    signals to others, and a run in one of those cannot be stopped this way.
    """

    def __init__(self) -> None:
        self.name = ""
        self._first: float | None = None
        self._group = None

    def __enter__(self) -> "StopSignals":
        here = threading.current_thread() is threading.main_thread()
        numbers = _SIGNALS if here else ()
        self._before = {number: signal.signal(number, self._notice) for number in numbers}
        _replaced.update(self._before)
        if get_world_size() > 1 and distributed.get_backend() != "gloo":
            self._group = distributed.new_group(backend="gloo")
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        _replaced.clear()

    def _notice(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first is None:
            self.name, self._first = signal.Signals(number).name, now
            if os.environ.get("LOCAL_RANK", "0") == "0":
                text = f"\n{self.name}: saving after this iteration; send it again to stop at once"
                print(text, file=sys.stderr, flush=True)
        elif now - self._first > _ECHO_SECONDS:
            os._exit(128 + number)

    @property
    def noticed(self) -> bool:
        """Whether a signal has reached this process."""
        return self._first is not None

    def asked(self) -> bool:
        """Whether a signal has reached any process; all of them have to ask, and learn the same.

        The processes meet on the CPU: the device goes on with its queue.
        """
        if get_world_size() == 1:
            return self.noticed
        flag = torch.tensor([self.noticed], dtype=torch.uint8)
        distributed.all_reduce(flag, distributed.ReduceOp.MAX, self._group)
        return bool(flag)

    def wait_for_all(self) -> None:
        """Return when every process has called it."""
        if get_world_size() > 1:
            distributed.barrier(self._group)


def keep_worker_alive(init: Callable[[int], None] | None) -> Callable[[int], None]:
    """A loader's ``worker_init_fn`` that also lets a worker outlive signals for some seconds.

    Terminals and schedulers signal every process of a job. A worker that died of it would take the
    iteration along that is to be finished and saved.
    """
    return partial(_init_worker, init)


def _init_worker(init: Callable[[int], None] | None, worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # Not ignored for good: it is also the last means by which the main process ends a worker.
    signal.signal(signal.SIGTERM, _leave_later)
    if init is not None:
        init(worker)


def _leave_later(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.alarm(_WORKER_SECONDS)
