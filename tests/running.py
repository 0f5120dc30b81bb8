"""Run a tool, or a runner, inside the test's process, whose imports are done."""

import io
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest
from mmengine.logging import MessageHub, MMLogger
from mmengine.runner import Runner
from mmengine.visualization import Visualizer


class Outcome:
    """Exit status and output of a tool."""

    def __init__(self, status: int, out: str, err: str):
        self.status, self.out, self.err = status, out, err
        self.errors = [line for line in err.splitlines() if line.startswith("error: ")]

    def sentence(self) -> str:
        """The one line that a user's mistake leads to."""
        assert self.status == 2, self.err
        assert len(self.errors) == 1, self.err
        assert "Traceback" not in self.err + self.out
        return self.errors[0].removeprefix("error: ")


def train_and_close(runner: Runner) -> None:
    """Train; then let go of the run's log file, which the next run would write into, too."""
    logger = logging.getLogger("mmengine")
    try:
        runner.train()
    finally:
        for handler in logger.handlers:
            handler.close()
        logger.handlers.clear()


def run_tool(script: str, *words: str) -> Outcome:
    """What ``python tools/<script> <words>`` does, by the command that it imports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"tools/{script}", *words])
        patch.delenv("LOCAL_RANK", raising=False)
        return in_process(patch, import_module(f"mmsalmask.commands.{Path(script).stem}").main)


def in_process(patch: pytest.MonkeyPatch, main: Callable[[], None]) -> Outcome:
    """Run a command with the ``sys.argv`` and environment that ``patch`` has set."""
    out, err = io.StringIO(), io.StringIO()
    patch.setattr(sys, "stdout", out)
    patch.setattr(sys, "stderr", err)
    status = 0
    known = {kind: set(kind._instance_dict) for kind in (MMLogger, MessageHub, Visualizer)}
    try:
        main()
    except SystemExit as exit:
        status = exit.code or 0
    finally:
        for logger in MMLogger._instance_dict.values():
            for handler in list(logger.handlers):
                logger.removeHandler(handler)
                with suppress(OSError):  # its file may lie on a full disk
                    handler.close()
        # A run is known by its config's name and the second: the next one may have the same.
        for kind, names in known.items():
            for name in set(kind._instance_dict) - names:
                del kind._instance_dict[name]
    return Outcome(status, out.getvalue(), err.getvalue())
