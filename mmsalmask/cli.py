"""What every command line tool shares: its config arguments, and how it tells a user's error."""

import argparse
import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.config import DictAction

from mmsalmask.errors import InputError

INPUT_STATUS = 2
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

    An :class:`InputError`, or a full disk, exits with 2; an interrupt with 130. Anything else is a
    defect of ours and passes untouched, with its traceback. Of several processes on a machine
    (``LOCAL_RANK``) only the first prints; all exit alike.
    """
    # A log file on a full disk would add a traceback of its own for every line.
    logging.raiseExceptions = False
    try:
        yield
    except InputError as error:
        _leave(f"error: {_sentence(error)}", INPUT_STATUS)
    except KeyboardInterrupt:
        _leave("interrupted", INTERRUPT_STATUS)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _leave(f"error: {_full_disk(error)}", INPUT_STATUS)


def _sentence(error: InputError) -> str:
    # PyTorch's loader raises a worker's error again, with the worker's whole traceback as its text.
    raised = f"{InputError.__module__}.{InputError.__qualname__}: "
    return str(error).rpartition(raised)[2].rstrip()


def _full_disk(error: OSError) -> str:
    # A failed write, unlike a failed open, does not say which file it was.
    where = error.filename or "the work directory"
    return (
        f"no space left on the disk that holds {where}; make room and start again with --resume, "
        "the last good checkpoint is kept"
    )


def _leave(message: str, status: int) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(message, file=sys.stderr)
    # The cause is the user's to mend, and told: its traceback would only hide the sentence.
    raise SystemExit(status) from None
