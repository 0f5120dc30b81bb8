"""What the user of several processes reads last, and the status that a script sees."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmsalmask.torchrun import _first_words, leave_last_words

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from mmsalmask.cli import report_errors
from mmsalmask.errors import InputError, Stopped

part, first = sys.argv[1], os.environ["RANK"] == "0"

def leave(*_):
    if first:  # in one write: unbuffered, `print` writes its line break by itself
        os.write(1, b"the first process says more, and more\\n")
    if part in ("SIGTERM", "SIGUSR1"):
        raise Stopped("stopped, saved")
    sys.exit(1)

signal.signal(signal.SIGTERM, leave)
signal.signal(signal.SIGUSR1, leave)
with report_errors():
    if first:
        Path("ready").touch()
    while not Path("ready").exists():  # else SIGTERM may come before there is a handler
        time.sleep(0.05)
    print("ready", flush=True)
    if part == "mistake" and not first:
        raise InputError("image 7.png cannot be read: repair it")
    if part == "killed" and not first:
        os.kill(os.getpid(), signal.SIGKILL)
    if part == "killed":
        time.sleep(0.2)
        raise RuntimeError("connection closed by peer")
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("part", "status", "last"),
    [
        ("mistake", 2, "error: image 7.png cannot be read: repair it"),
        ("killed", 128 + signal.SIGKILL, "error: process 1 was ended by SIGKILL"),
        ("SIGTERM", 75, "stopped, saved"),
        ("SIGUSR1", 75, "stopped, saved"),
    ],
)
def test_the_error_stands_at_the_end_and_the_status_is_its_own(tmp_path, part, status, last):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "mmsalmask.torchrun", "--standalone", "--nproc_per_node=2"]
    with (tmp_path / "output.txt").open("w+") as output:
        launcher = subprocess.Popen(
            [*command, str(script), part],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )
        stopping = part.startswith("SIG")
        while stopping and (tmp_path / "output.txt").read_text().count("ready") < 2:
            assert launcher.poll() is None
            time.sleep(0.1)
        if stopping:
            launcher.send_signal(signal.Signals[part])
        assert launcher.wait(240) == status
        output.seek(0)
        lines = output.read().splitlines()
    assert lines[-1] == last
    assert lines.count(last) == 1
    if part != "killed":
        assert "the first process says more, and more" in lines[:-1]


def test_the_first_of_the_last_attempt_is_heard(tmp_path, monkeypatch):
    assert not leave_last_words("to nobody", 2)
    monkeypatch.setenv("MMSALMASK_LAST_WORDS", str(tmp_path))
    assert _first_words(tmp_path) is None
    for attempt, rank, words in (
        ("0", "0", "old"),
        ("10", "1", "Trace\nback"),
        ("10", "0", "late"),
    ):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", attempt)
        monkeypatch.setenv("RANK", rank)
        assert leave_last_words(words, 1)
    assert _first_words(tmp_path) == (1, "Trace\nback")
    monkeypatch.setenv("MMSALMASK_LAST_WORDS", str(tmp_path / "gone" / "away"))
    assert not leave_last_words("on a full disk", 2)


def test_a_port_that_is_in_use_is_told_in_a_sentence(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "mmsalmask.torchrun", "--master_addr=127.0.0.1"]
        done = subprocess.run(
            [*command, f"--master_port={port}", "script.py"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: port {port} of this machine is in use")
    assert "Traceback" not in done.stderr
