"""A work directory belongs to one run at a time."""

import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmsalmask.errors import InputError

_FILE = ".lock"


@contextmanager
def owned(folder: str | Path) -> Iterator[None]:
    """Keep every other process out of a folder's ``owned``, until this one leaves it or dies.

    The system holds the lock and takes it back from a dead process; children (the workers of a
    loader) do not inherit it. What stands in the folder's ``.lock`` only says whose it is. A file
    system that knows no locks is warned of.

    Raises:
        InputError: another process is in it; names the process.
    """
    with (Path(folder) / _FILE).open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise InputError(
                f"{folder} is in use by {_owner(file)}: wait until it ends, end it (SIGTERM lets "
                "it save), or choose another --work-dir"
            ) from None
        except OSError as error:
            print(f"warning: {folder} cannot be locked ({error.strerror})", file=sys.stderr)
        file.truncate(0)
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        json.dump({"process": os.getpid(), "host": socket.gethostname(), "since": now}, file)
        file.flush()
        try:
            yield
        finally:
            with suppress(OSError):  # a full disk; the lock goes with the file
                file.truncate(0)


def _owner(file) -> str:
    file.seek(0)
    try:
        found = json.load(file)
        return f"process {found['process']} on {found['host']}, since {found['since']}"
    except (ValueError, KeyError):  # it has the lock, and is about to write its name
        return "another process"
