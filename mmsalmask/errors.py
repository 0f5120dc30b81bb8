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
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    # "<" begins the names of code that lies in no file.
    foreign = ("<", _PACKAGE, *_libraries())
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        started = frame.name == "<module>" and frame.filename == main
        if not started and not frame.filename.startswith(foreign):
            file = Path(frame.filename)
            near = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
            inside = "" if frame.name == "<module>" else f" in {frame.name}"
            return f", at {near}:{frame.lineno}{inside}"
    return ""


def refusal_of(error: BaseException) -> str | None:
    """What a library's class said against the settings that a config builds it with.

    ``None`` where anything else went wrong, or the code that failed is the user's or this
    package's: then the traceback says more.
    """
    if not isinstance(error, _REFUSALS):
        return None
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    built = [place for place, frame in enumerate(frames) if frame.f_code.co_name == _BUILDER]
    if not built:
        return None
    known = frames[built[-1]].f_locals
    files = [frame.f_code.co_filename for frame in frames[built[-1] + 1 :]]
    of_library = all(f.startswith(_libraries()) and not f.startswith(_PACKAGE) for f in files)
    # Without a class yet, the registry was still looking for it.
    if not files or not of_library or "obj_cls" not in known:
        return None
    short = {name: repr(value) for name, value in known["args"].items() if name != "params"}
    settings = ", ".join(f"{name}={told}" for name, told in short.items() if len(told) <= _SHORT)
    reason = str(error).strip().partition("\n")[0]
    return (
        f"{known['obj_cls'].__name__} cannot be built with {settings or 'its settings'} "
        f"({type(error).__name__}: {reason}): change what it cannot take, in the config or by "
        "--cfg-options"
    )


def _libraries() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))


_PACKAGE = str(Path(__file__).parent)
_REFUSALS = (TypeError, ValueError, LookupError, AttributeError, AssertionError, RuntimeError)
_BUILDER = "build_from_cfg"  # of mmengine's registries
_SHORT = 40  # characters of a setting that a sentence repeats
