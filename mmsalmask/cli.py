"""What every command line tool shares: its config arguments, and how it tells a user's error."""

import argparse
import errno
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.config import DictAction

from mmsalmask.errors import InputError, NotWritten, Stopped
from mmsalmask.torchrun import leave_last_words

DEFECT_STATUS = 1
INPUT_STATUS = 2
STOPPED_STATUS = 75  # EX_TEMPFAIL of sysexits.h: saved, to be started again
INTERRUPT_STATUS = 130


def config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``config`` and ``--cfg-options`` (a dict of dotted path → value) to a parser."""
    parser.add_argument("config", help="a config file")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=_Options,
        metavar="KEY=VALUE",
        help="override config keys, e.g. data_root=my/photos train_cfg.max_epochs=20; "
        "a number counts into a list: train_dataloader.dataset.pipeline.0.scale=96",
    )


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
    parser.add_argument("--size", type=int, default=64, help="pixels of the crop (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of split and untrained net")
    parser.add_argument("--batch-size", type=int, default=100, help="images (%(default)s)")
    parser.add_argument(
        "--workers", type=int, default=2, help="processes that decode (%(default)s)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here, too")


class _Options(DictAction):
    """``DictAction`` with a sentence for what it cannot parse."""

    def __call__(self, parser, namespace, values, option_string=None):
        for value in values:
            if "=" not in value:
                parser.error(f"{option_string}: '{value}' is not of the form KEY=VALUE")
        try:
            super().__call__(parser, namespace, values, option_string)
        except AssertionError as error:
            parser.error(f"{option_string}: {error}")


@contextmanager
def report_errors() -> Iterator[None]:
    """Turn what the user can mend into one line on stderr and an exit status.

    An :class:`InputError`, or a file that cannot be written (a full disk, no permission), exits
    with 2; a run that was saved after a signal with 75; an interrupt elsewhere with 130. Anything
    else is a defect of ours and passes untouched, with its traceback. Of several processes on a
    machine (``LOCAL_RANK``) only the first prints; all exit alike. Under
    :mod:`mmsalmask.torchrun` the launcher prints, when all have ended.
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
        ours = isinstance(error, NotWritten) or error.errno in _FULL
        if not ours or error.errno not in _NOT_WRITTEN:
            leave_last_words(traceback.format_exc().rstrip(), DEFECT_STATUS)
            raise
        _leave(f"error: {_not_written(error)}", INPUT_STATUS)
    except Exception:
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
    told = _NOT_WRITTEN[error.errno].format(error.filename or "the work directory")
    return f"{told} and start again with --resume, the last good checkpoint is kept"


def _leave(message: str, status: int) -> None:
    if not leave_last_words(message, status) and os.environ.get("LOCAL_RANK", "0") == "0":
        print(message, file=sys.stderr)
    # The cause is the user's to mend, and told: its traceback would only hide the sentence.
    raise SystemExit(status) from None
