"""torchrun, but what its user reads last is the error of the process that failed first.

    python -m mmsalmask.torchrun [options of torchrun] SCRIPT [arguments]

torchrun itself ends in a table and a traceback of its own, under which the sentence of a process
is lost, and always with status 1. Here a process leaves its last words in a file, the launcher
prints those of the first when all processes have ended, and ends with its status.
"""

import os
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

# The folder of the last words.
_FOLDER = "MMSALMASK_LAST_WORDS"
_TAKEN = (
    "error: port {} of this machine is in use, perhaps by another run: give another one "
    "(PORT=29501 tools/dist_train.sh …, or --master_port)"
)


def leave_last_words(words: str, status: int) -> bool:
    """Leave to the launcher what this process would print before it ends with ``status``.

    Returns:
        Whether there is such a launcher; without one the process has to print them itself.
    """
    folder = os.environ.get(_FOLDER)
    if folder is None:
        return False
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    name = f"{time.time_ns():020}_{os.environ.get('RANK', '0')}"
    try:
        Path(folder, attempt).mkdir(exist_ok=True)
        Path(folder, attempt, name).write_text(f"{status}\n{words}", encoding="utf-8")
    except OSError:  # a full disk
        return False
    return True


def _first_words(folder: Path) -> tuple[int, str] | None:
    """Status and words of the process that left first, after the last restart."""
    attempts = sorted(folder.iterdir(), key=lambda attempt: int(attempt.name))
    if not attempts:
        return None
    status, words = min(attempts[-1].iterdir()).read_text(encoding="utf-8").split("\n", 1)
    return int(status), words


def main() -> None:
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    def pass_on(number: int, *_: object) -> None:
        raise SignalException(f"the launcher got signal {number}", signal.Signals(number))

    # torchrun passes on what ends a process, but not what Slurm sends before a time limit.
    signal.signal(signal.SIGUSR1, pass_on)
    options = parse_args(sys.argv[1:])
    with TemporaryDirectory(prefix="mmsalmask_") as folder:
        os.environ[_FOLDER] = folder
        status, failures = 0, []
        try:
            run(options)
        except ChildFailedError as error:
            failures = sorted(error.failures.values(), key=lambda failure: failure.timestamp)
            status = failures[0].exitcode
        except SignalException as error:
            status = -error.sigval
        except RuntimeError as error:
            if "EADDRINUSE" not in str(error):
                raise
            print(_TAKEN.format(options.master_port), file=sys.stderr)
            sys.exit(2)
        status, words = _last_words(status, failures, Path(folder))
    if words:
        print(words, file=sys.stderr)
    sys.exit(status if status >= 0 else 128 - status)


def _last_words(status: int, failures: list, folder: Path) -> tuple[int, str]:
    """The status to end with, negative for a signal's, and what to say.

    A process that a signal ended leaves no words. Processes that lose another one are aborted or
    terminated, so SIGABRT and SIGTERM are not the cause.
    """
    for failure in failures:
        if failure.exitcode < 0 and -failure.exitcode not in (signal.SIGABRT, signal.SIGTERM):
            name = signal.Signals(-failure.exitcode).name
            words = f"error: process {failure.local_rank} was ended by {name}"
            return failure.exitcode, words
    return (_first_words(folder) if status else None) or (status, "")


if __name__ == "__main__":
    main()
