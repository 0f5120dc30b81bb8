"""Where a figure comes from: every result file carries command, commit, hardware and versions."""

import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import torch

from mmsalmask.files import write_atomically


def provenance(seed: int | None = None) -> dict:
    """Command, commit, hardware and versions of the run that is writing a result."""
    return {
        "command": command_line(),
        "commit": _commit(),
        "hardware": _hardware(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "seed": seed,
    }


def command_line() -> str:
    """What was typed to start this process, a tool of ours or the command ``mmsalmask``."""
    started, *words = sys.argv
    start = started if started.startswith("mmsalmask ") else f"python {shlex.quote(started)}"
    return " ".join([start, *map(shlex.quote, words)])


def write_result(path: str | Path, result: dict) -> None:
    """Write a result as indented JSON, whole or not at all; its folder is made if needed."""
    write_atomically(path, (json.dumps(result, indent=2) + "\n").encode())


def _commit() -> str:
    """Short hash of the checkout that this package is imported from; ``unknown`` outside of one."""
    root = Path(__file__).resolve().parent.parent

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return "unknown"
        dirty = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short", "HEAD") + ("+changes" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _hardware() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
        model = names[0] if names else model
    except OSError:
        pass
    return f"{os.cpu_count()} cores, {model}"
