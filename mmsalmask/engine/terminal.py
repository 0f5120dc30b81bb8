"""What a training shows on the terminal: what it is, how it goes, and what to do next.

Environment, config, hooks and all fields of the log go to the log file (and TensorBoard) alone.
"""

import logging
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any, TextIO

import numpy as np
from mmengine.hooks import Hook, LoggerHook
from mmengine.logging import MMLogger
from mmengine.runner import EpochBasedTrainLoop
from torch import nn

from mmsalmask.engine.models import unwrapped
from mmsalmask.engine.resume.runner import ExactRunner
from mmsalmask.engine.summary import COLUMNS, fold, header, images_per_step, short

# As ``extra`` of a log record: it is shown, though it is no warning.
SHOWN = {"shown": True}
# They warn of what a config cannot help, such as layers that only the other part of a C4 model has.
_LIBRARIES = ("mmengine", "mmcv", "mmpretrain", "mmdet", "mmseg")
_PRINTING = ("pycocotools.coco", "pycocotools.cocoeval")
# Seconds after which progress is told though no log line is due: 50 steps may take a CPU an hour.
_PATIENCE = 30.0


class Console(logging.StreamHandler):
    """Shows warnings, what is marked as :data:`SHOWN`, and what it is told; folded to 100 columns.

    Errors are shown whoever logs them, warnings unless they are those of OpenMMLab's libraries. A
    line of progress replaces the one before it where the stream is a terminal or a notebook.

    Attributes:
        notebook: whether the stream is that of a Jupyter kernel.
    """

    def __init__(self, stream: TextIO, level: int) -> None:
        super().__init__(stream)
        self.setLevel(level)
        self.notebook = type(stream).__module__.startswith("ipykernel")
        self._open = 0  # characters of a line that the next one may replace

    @classmethod
    def replace_in(cls, logger: MMLogger) -> "Console":
        """Put a console in the place of mmengine's handler for the terminal."""
        for i, handler in enumerate(logger.handlers):
            if isinstance(handler, cls):
                return handler
            if type(handler) is logging.StreamHandler:
                logger.handlers[i] = console = cls(handler.stream, handler.level)
                console.filters = handler.filters
                return console
        raise AssertionError("a logger of mmengine has a handler for the terminal")

    def tell(self, text: str, live: bool = False) -> None:
        """Show a text, unless this process or the ``log_level`` of the run wants silence."""
        if self.level <= logging.INFO:
            record = {"msg": text, "levelno": logging.INFO, "live": live, **SHOWN}
            self.handle(logging.makeLogRecord(record))

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            text = f"{record.levelname.lower()}: {text}"
        shown = getattr(record, "shown", False) or record.levelno >= logging.ERROR
        if not shown and (record.levelno < logging.WARNING or _by_library(record)):
            return
        live = getattr(record, "live", False) and (self.notebook or self.stream.isatty())
        if live:
            width = COLUMNS if self.notebook else shutil.get_terminal_size().columns - 1
            text = text[: min(COLUMNS, width)]
            text = text.ljust(self._open)  # a notebook knows no code that clears a line
            start = "\r" if self._open else ""
        else:
            text = fold(text) + "\n"
            start = "\n" if self._open else ""
        try:
            self.stream.write(start + text)
            self.flush()
        except Exception:
            self.handleError(record)
        self._open = len(text) if live else 0

    def end_line(self) -> None:
        """Let what comes next begin on a line of its own."""
        if self._open:
            self.stream.write("\n")
            self.flush()
            self._open = 0


def _by_library(record: logging.LogRecord) -> bool:
    folders = (os.path.dirname(sys.modules[n].__file__) for n in _LIBRARIES if n in sys.modules)
    return record.pathname.startswith(tuple(folders))


@contextmanager
def _libraries_log(logger: MMLogger) -> Iterator[None]:
    """Let Python's warnings and what pycocotools prints go to the log file."""
    files = [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
    warned = logging.getLogger("py.warnings")
    printing = [sys.modules[name] for name in _PRINTING if name in sys.modules]
    for file in files:
        warned.addHandler(file)
    for module in printing:
        module.print = lambda *words, **_: logger.info(" ".join(map(str, words)))
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for file in files:
            warned.removeHandler(file)
        for module in printing:
            del module.print


class QuietRunner(ExactRunner):
    """An :class:`ExactRunner` that tells the terminal only what a user reads."""

    def build_logger(self, *args: Any, **options: Any) -> MMLogger:
        """Build mmengine's logger with a :class:`Console`."""
        logger = super().build_logger(*args, **options)
        self._console = Console.replace_in(logger)
        return logger

    def register_hooks(self, *args: Any, **options: Any) -> None:
        """Register the hooks of the config and :class:`ProgressHook`."""
        super().register_hooks(*args, **options)
        self.register_hook(ProgressHook(self._console))

    def train(self) -> nn.Module:
        """Train; whatever ends it, the terminal is at the start of a line then."""
        with _libraries_log(self.logger):
            try:
                return super().train()
            finally:
                self._console.end_line()


class ProgressHook(Hook):
    """Tells the console what trains, how it goes on, and what comes next.

    It tells a line of progress with every line of the log, and after half a minute without one.
    """

    priority = "VERY_LOW"  # after those that fill the log, evaluate and save

    def __init__(self, console: Console) -> None:
        self.console = console

    def before_run(self, runner) -> None:
        self.console.tell("\n".join(header(runner)))

    def before_train(self, runner) -> None:
        intervals = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
        self._interval = min(intervals, default=50)
        self._start = self._told = monotonic()
        self._first = self._last = runner.iter

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        ends = self.end_of_epoch(runner.train_dataloader, batch_idx)
        late = monotonic() - self._told > _PATIENCE
        if late or ends or self.every_n_inner_iters(batch_idx, self._interval):
            done = runner.iter + 1
            self.console.tell(self._line(runner, batch_idx, done), live=True)
            self._last, self._told = done, monotonic()

    def after_train_epoch(self, runner) -> None:
        if not self.console.notebook:  # there one line, with a bar, is all of the training
            self.console.end_line()

    def _line(self, runner, batch_idx: int, done: int) -> str:
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            parts = [f"epoch {_of(runner.epoch + 1, runner.max_epochs)}"]
            parts += [_of(batch_idx + 1, len(runner.train_dataloader))]
        else:
            parts = [f"iteration {_of(done, runner.max_iters)}"]
        if self.console.notebook:
            parts.insert(0, _bar(done / runner.max_iters))
        hub, window = runner.message_hub, runner.log_processor.window_size
        if "train/loss" in hub.log_scalars:
            parts.append(f"loss {hub.get_scalar('train/loss').mean(window):.4f}")
        named = (name for name in hub.log_scalars if name.startswith("train/") and "acc" in name)
        if accuracy := next(named, None):
            name = accuracy.removeprefix("train/").replace("_", " ")
            parts.append(f"{name} {hub.get_scalar(accuracy).mean(window):.1f} %")
        if "train/time" in hub.log_scalars:
            seconds = hub.get_scalar("train/time").mean(done - self._last)
            speed = images_per_step(runner) / seconds
            parts.append(f"{speed:,.{0 if speed >= 10 else 1}f} images/s")
        left = (monotonic() - self._start) / (done - self._first) * (runner.max_iters - done)
        return "  ".join([*parts, f"eta {_clock(left)}"])

    def after_val_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        numbers = int | float | np.number
        figures = {k: v for k, v in (metrics or {}).items() if isinstance(v, numbers)}
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            where = f"epoch {_of(runner.epoch, runner.max_epochs)}"
        else:
            where = f"iteration {_of(runner.iter, runner.max_iters)}"
        self.console.tell("  ".join([where, *(f"{k} {v:.4g}" for k, v in figures.items())]))

    def after_run(self, runner) -> None:
        took = f"done after {_clock(monotonic() - self._start)}"
        checkpoint = runner.message_hub.get_info("last_ckpt")
        if checkpoint is None:
            return self.console.tell(f"{took}; no checkpoint was written")
        self.console.tell(f"{took}: checkpoint {short(checkpoint)}")
        if commands := [_command(words) for words in next_commands(runner, checkpoint)]:
            self.console.tell("\n".join(["next:", *commands]))


def next_commands(runner, checkpoint: str) -> Iterator[list[str]]:
    """The next commands for a trained model: a test if the config has one, else judge and export.

    The commands read the config that mmengine has written to the work directory, which has all
    overrides.
    """
    recipe = Path(runner.work_dir) / Path(runner.cfg.filename or f"{runner.timestamp}.py").name
    words = [short(recipe), short(checkpoint)]
    if runner.cfg.get("test_dataloader"):
        yield [*_as_started("test"), *words]
    elif hasattr(unwrapped(runner.model), "backbone"):
        yield [*_as_started("diagnose"), words[1], "IMAGES"]
        yield [*_as_started("knn"), *words, "--train", "TRAIN", "--test", "TEST"]
        yield [*_as_started("export", "export_backbone"), words[1]]


def _as_started(command: str, tool: str | None = None) -> list[str]:
    """Another command, named as the running one was: by ``mmsalmask``, or by a file of tools/."""
    running = Path(sys.argv[0])
    if running.parent.name == "tools":
        return ["python", short(running.with_name(f"{tool or command}.py"))]
    return ["mmsalmask", command]


def _command(words: list[str]) -> str:
    """A command as typed in a shell, over several lines if it is long."""
    lines = [" "]
    for word in map(shlex.quote, words):
        if len(lines[-1]) + len(word) + 3 > COLUMNS and lines[-1].strip():
            lines[-1] += " \\"
            lines.append("     ")
        lines[-1] += f" {word}"
    return "\n".join(lines)


def _bar(share: float, width: int = 20) -> str:
    full = round(share * width)
    return f"{'█' * full}{'░' * (width - full)} {share:4.0%}"


def _of(number: int, total: int) -> str:
    return f"{number:>{len(str(total))}}/{total}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(max(0.0, seconds))))
