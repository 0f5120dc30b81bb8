"""The one exception a user is meant to read, and what its sentences share."""

from collections.abc import Iterable


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
