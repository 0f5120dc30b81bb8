"""The one exception a user is meant to read, and what its sentences share."""

import sys
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path


class InputError(ValueError):
    """What the user gave cannot work.

    The message is one sentence (two at most) that says what is wrong and what to do about it. The
    command line tools print it alone, without a traceback, and exit with status 2.
    """


class NotWritten(OSError):
    """A file could not be written; what lay there before stays."""


class Stopped(Exception):
    """A signal ended the run after it was saved; the message says where it goes on.

    The command line tools print it and exit with status 75, which stands for "try again later".
    """


def some_names(names: Iterable[str], most: int = 5) -> str:
    """The first names, for a sentence, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def place_of(error: BaseException) -> str:
    """The innermost line of the user's own files that led to an error: ``, at fill.py:11 in fill``.

    Empty where only libraries and this package were at work.
    """
    main, paths = getattr(sys.modules.get("__main__"), "__file__", None), sysconfig.get_paths()
    # "<" begins the names of code that lies in no file.
    foreign = ("<", str(Path(__file__).parent), *(paths[name] for name in _LIBRARIES))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        started = frame.name == "<module>" and frame.filename == main
        if not started and not frame.filename.startswith(foreign):
            file = Path(frame.filename)
            near = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
            inside = "" if frame.name == "<module>" else f" in {frame.name}"
            return f", at {near}:{frame.lineno}{inside}"
    return ""


_LIBRARIES = ("stdlib", "platstdlib", "purelib", "platlib")
