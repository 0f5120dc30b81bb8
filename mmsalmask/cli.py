"""What every command line tool shares: its config arguments, and how it tells a user's error."""

import argparse
import difflib
import errno
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from mmengine.config import DictAction
from rich.console import Console
from rich.measure import Measurement
from rich.progress import track
from rich.table import Table

from mmsalmask.errors import InputError, NotWritten, Stopped, refusal_of
from mmsalmask.torchrun import leave_last_words

T = TypeVar("T")

DEFECT_STATUS = 1
INPUT_STATUS = 2
STOPPED_STATUS = 75  # EX_TEMPFAIL of sysexits.h: saved, to be started again
INTERRUPT_STATUS = 130


class Parser(argparse.ArgumentParser):
    """The parser of a command: its help begins with a docstring, and it knows near names.

    argparse itself would tell first of the required option that a misspelt one was meant to be.
    """

    def __init__(self, description: str, **settings: Any) -> None:
        plain = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=plain, **settings)

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        known = self._option_string_actions
        for word in sys.argv[1:] if args is None else args:
            name = word.partition("=")[0]
            if name.startswith("--") and not any(option.startswith(name) for option in known):
                near = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                self.error(f"there is no option {name}{hint}")
        return super().parse_known_args(args, namespace)


def with_progress(steps: Iterable[T], words: str) -> Iterable[T]:
    """The steps, beside a bar with an ETA on a terminal's stderr while they last."""
    console = Console(stderr=True, force_jupyter=False)
    return track(steps, words, console=console, transient=True, disable=not console.is_terminal)


def config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``config`` and ``--cfg-options`` to a parser."""
    parser.add_argument("config", help="a config file")
    cfg_options_argument(parser)


def cfg_options_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options`` (a dict of dotted path → value) to a parser."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=_Options,
        metavar="KEY=VALUE",
        help="override config keys, e.g. data_root=my/photos train_cfg.max_epochs=20; "
        "a number counts into a list: train_dataloader.dataset.pipeline.0.scale=96",
    )


# Where a launcher tells each process which one it is, of all and of a machine's, and how one is
# started.
_LAUNCHERS = {
    "pytorch": ("RANK", "LOCAL_RANK", "tools/dist_train.sh CONFIG GPUS, or torchrun"),
    "slurm": (
        "SLURM_PROCID",
        "SLURM_LOCALID",
        "tools/slurm_train.sh PARTITION JOB_NAME CONFIG, or srun",
    ),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "mpirun"),
}


def check_launcher(launcher: str) -> str:
    """The launcher, if it has started this process.

    Raises:
        InputError: it has not, so the rank and the number of processes are unknown.
    """
    variable, _, way = _LAUNCHERS.get(launcher, (None, None, ""))
    if variable and variable not in os.environ:
        raise InputError(
            f"--launcher {launcher}: there is no {variable} in the environment, so no {launcher} "
            f"launcher has started this process: start it by {way}, or leave --launcher out"
        )
    return launcher


def rank_of_launcher(launcher: str) -> str:
    """Which of all processes this one is, as its launcher says; ``"0"`` for one without."""
    variable, *_ = _LAUNCHERS.get(launcher, ("",))
    return os.environ.get(variable, "0")


def parse_launched(parser: argparse.ArgumentParser, words: list[str] | None) -> argparse.Namespace:
    """Parse the words of a command that launchers start, with ``--launcher``.

    Older ones say by ``--local-rank`` which process of a machine this is, Slurm and MPI by
    variables of their own: it goes to where everybody looks for it.
    """
    parser.add_argument("--launcher", choices=["none", *_LAUNCHERS], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)
    options = parser.parse_args(words)
    _, told, _ = _LAUNCHERS.get(options.launcher, ("", "", ""))
    os.environ.setdefault("LOCAL_RANK", os.environ.get(told, str(options.local_rank)))
    del options.local_rank
    return options


def work_dir_argument(parser: argparse.ArgumentParser, default: str) -> None:
    """Add ``--work-dir``, the folder of all that a tool makes, and its former name ``--out``."""
    parser.add_argument(
        "--work-dir", type=Path, metavar="DIR", help=f"where it all goes ({default})"
    )
    parser.add_argument("--out", dest="work_dir", type=Path, help=argparse.SUPPRESS)


def tracker_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--tracker``, see :func:`mmsalmask.engine.tracking.use_tracker`."""
    parser.add_argument(
        "--tracker",
        choices=["wandb", "mlflow"],
        help="also log to Weights & Biases or MLflow; TensorBoard's files are always written",
    )


# Processes that decode, of commands that do little else; PyTorch warns of more than the cores.
LOADERS = min(4, os.cpu_count() or 1)


def labelled_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the checkpoint and what :func:`mmsalmask.evaluation.features.features_for` reads."""
    parser.add_argument(
        "checkpoint", help="a checkpoint, or 'none' for the untrained net of --seed"
    )
    parser.add_argument("--train", required=True, help="folder <class>/<image> to learn from")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--test", help="folder <class>/<image> to classify")
    source.add_argument(
        "--train-per-class",
        type=int,
        metavar="N",
        help="split --train: learn from N images of each class, classify the others",
    )
    parser.add_argument("--size", type=int, help="pixels of the crop (as in pretraining)")
    parser.add_argument("--seed", type=int, default=0, help="of split and untrained net")
    parser.add_argument("--batch-size", type=int, default=100, help="images (%(default)s)")
    parser.add_argument(
        "--workers", type=int, default=2, help="processes that decode (%(default)s)"
    )
    parser.add_argument("--device", help="(the GPU if there is one, else the CPU)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here, too")


class _Options(DictAction):
    """``DictAction`` that keeps spaces, and has a sentence for what it cannot parse."""

    @staticmethod
    def _parse_iterable(value: str) -> Any:
        """A list or tuple where there are brackets or commas, else one word with its spaces."""
        value = value.strip().strip("'\"").strip()
        if "," not in value and (value[:1], value[-1:]) not in (("[", "]"), ("(", ")")):
            return DictAction._parse_int_float_bool(value)
        # mmengine drops every space, also those inside of a path.
        tight = re.sub(r"\s*([][(),])\s*", r"\1", value)
        return _with_spaces(DictAction._parse_iterable(tight.replace(" ", _SPACE)))

    def __call__(self, parser, namespace, values, option_string=None):
        for value in values:
            if "=" not in value:
                parser.error(f"{option_string}: '{value}' is not of the form KEY=VALUE")
        try:
            super().__call__(parser, namespace, values, option_string)
        except AssertionError as error:
            parser.error(f"{option_string}: {error}")


_SPACE = "\N{SYMBOL FOR SPACE}"


def _with_spaces(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_with_spaces, value))
    return value.replace(_SPACE, " ") if isinstance(value, str) else value


def print_table(table: Table) -> None:
    """Print a table in full, on a narrow terminal or in a pipe, too.

    Where its rows are wider than the terminal, the terminal breaks them; rich would cut the names
    that tell the rows apart.
    """
    console = Console(markup=False)  # a name in brackets is a name
    unlimited = console.options.update(max_width=10_000)
    console.width = max(console.width, Measurement.get(console, unlimited, table).maximum)
    console.print(table)


@contextmanager
def report_errors() -> Iterator[None]:
    """Turn what the user can mend into one line on stderr and an exit status.

    An :class:`InputError`, a library's class that refuses its settings, or a file that cannot be
    written (a full disk, no permission), exits with 2; a run that was saved after a signal with 75;
    an interrupt elsewhere with 130. Anything else is a defect of ours and passes untouched, with
    its traceback. Of several processes on a machine (``LOCAL_RANK``) only the first prints; all
    exit alike. Under :mod:`mmsalmask.torchrun` the launcher prints, when all have ended.
    """
    # A log file on a full disk would add a traceback of its own for every line.
    logging.raiseExceptions = False
    try:
        yield
    except InputError as error:
        _leave(f"error: {_sentence(error)}", INPUT_STATUS)
    except Stopped as stopped:
        _leave(str(stopped), STOPPED_STATUS)
    except KeyboardInterrupt:
        _leave("interrupted", INTERRUPT_STATUS)
    except OSError as error:
        if not isinstance(error, NotWritten) and error.errno not in _FULL:
            leave_last_words(traceback.format_exc().rstrip(), DEFECT_STATUS)
            raise
        _leave(f"error: {_not_written(error)}", INPUT_STATUS)
    except Exception as error:
        if told := refusal_of(error):
            _leave(f"error: {told}", INPUT_STATUS)
        leave_last_words(traceback.format_exc().rstrip(), DEFECT_STATUS)
        raise


def _sentence(error: InputError) -> str:
    # PyTorch's loader raises a worker's error again, with the worker's whole traceback as its text.
    raised = f"{InputError.__module__}.{InputError.__qualname__}: "
    return str(error).rpartition(raised)[2].rstrip()


# These come from writing alone, whoever wrote.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_NOT_WRITTEN = {
    errno.ENOSPC: "no space left on the disk that holds {}; make room",
    errno.EDQUOT: "the disk quota for {} is used up; make room",
    errno.EFBIG: "{} would be larger than files may be here (ulimit -f); raise the limit",
    errno.EROFS: "{} lies on a disk that is read-only; choose another --work-dir, or remount it",
    errno.EACCES: "there is no permission to write {}; give it",
    errno.EPERM: "there is no permission to write {}; give it",
    errno.EIO: "the disk that holds {} fails; choose another --work-dir",
}


def _not_written(error: OSError) -> str:
    # A failed write, unlike a failed open, does not say which file it was.
    other = f"{{}} cannot be written ({error.strerror}); choose another place"
    told = _NOT_WRITTEN.get(error.errno, other).format(error.filename or "the work directory")
    return f"{told} and start again (a training: with --resume, the last good checkpoint is kept)"


def _leave(message: str, status: int) -> None:
    with suppress(OSError):  # or what is buffered for a pipe would come after the error
        sys.stdout.flush()
    if not leave_last_words(message, status) and os.environ.get("LOCAL_RANK", "0") == "0":
        print(message, file=sys.stderr)
    # The cause is the user's to mend, and told: its traceback would only hide the sentence.
    raise SystemExit(status) from None
