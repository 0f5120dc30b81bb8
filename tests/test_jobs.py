"""Commands that run commands: a folder is one job's, failures are told, a job has its own GPU."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import mmsalmask
from mmsalmask.errors import InputError
from mmsalmask.jobs import Place, call, claim, run_all, visible_gpus, wait_for

CPU = Place(None, 1)
ROOT = Path(__file__).resolve().parents[1]


def test_a_folder_of_another_job_is_not_taken_for_this_one(tmp_path):
    claim(tmp_path / "new", {"seed": 0, "size": 64})
    claim(tmp_path / "new", {"seed": 0, "size": 64})
    with pytest.raises(
        InputError, match="holds a run with size = 64, not 32: choose another --work-dir"
    ):
        claim(tmp_path / "new", {"seed": 0, "size": 32})
    claim(tmp_path / "cache", {"dataset": {"images": 3, "digest": "ab12"}})
    with pytest.raises(InputError, match="holds a run with another dataset: choose another --out"):
        claim(tmp_path / "cache", {"dataset": {"images": 3, "digest": "cd34"}}, "--out")


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Let ``python -m mmsalmask <name>`` run a text: a package of that name that stands first."""

    def write(text: str) -> str:
        (tmp_path / "mmsalmask").mkdir()
        (tmp_path / "mmsalmask" / "__init__.py").touch()
        (tmp_path / "mmsalmask" / "__main__.py").write_text(text)
        monkeypatch.chdir(tmp_path)
        return "sleep"

    return write


def test_a_call_runs_a_command_and_appends_to_its_log(tmp_path):
    for _ in range(2):
        call("--version", log=tmp_path / "log")
    assert (tmp_path / "log").read_text() == f"mmsalmask {mmsalmask.__version__}\n" * 2


def test_a_call_without_log_shows_what_its_command_prints(capfd):
    call("--version")
    assert capfd.readouterr().out == f"mmsalmask {mmsalmask.__version__}\n"
    with pytest.raises(InputError, match="trian ended with status 2; see its output above"):
        call("trian")
    assert "no command 'trian'" in capfd.readouterr().err


def test_a_call_sees_its_own_gpu_and_its_share_of_the_cores(tmp_path, monkeypatch, command):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    wanted = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    name = command(f"import os, sys; print(sys.argv[2], *map(os.getenv, {wanted}))")
    log = tmp_path / "log"
    call(name, "first", log=log, place=Place("3", 1000))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    call(name, "second", log=log, place=CPU)
    call(name, "third", log=log)
    assert log.read_text() == f"first 1 3\nsecond {os.cpu_count()} 5\nthird None 5\n"


def test_the_last_line_of_a_command_that_fails_is_told(tmp_path):
    with pytest.raises(InputError, match=r"trian ended with status 2: error: no command .* \(all"):
        call("trian", log=tmp_path / "log", place=CPU)


def test_a_command_that_outlived_its_caller_is_waited_for(tmp_path, capsys, command, monkeypatch):
    name = command(
        "import os, time\nprint('start', flush=True)\n"
        "while not os.path.exists('waited'):\n    time.sleep(0.01)\nprint('end')"
    )
    log = tmp_path / "log"
    code = "import os; from mmsalmask.jobs import Path, call; "
    # Its words name the log's folder, as those of every command that is waited for do.
    folder = str(tmp_path)
    code += f"os.chdir({folder!r}); call({name!r}, {folder!r}, log=Path({str(log)!r}))"
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while not (log.exists() and log.read_text()):
        time.sleep(0.01)
    caller.kill()
    caller.wait()
    sleep = time.sleep

    def waited(seconds):
        (tmp_path / "waited").touch()
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", waited)
    wait_for(log)
    assert log.read_text() == "start\nend\n"
    process = (tmp_path / "log.pid").read_text()
    assert capsys.readouterr().err == f"waiting for an earlier call's process {process}\n"
    # A process that has got the number since is none of ours.
    (tmp_path / "log.pid").write_text(str(os.getpid()))
    wait_for(log)


def test_a_failure_is_a_result_and_a_defect_ends_everything():
    def fail(place):
        raise InputError("no")

    results = dict(run_all({"bad": fail, "good": lambda place: {"answer": 1}}, 1))
    assert results == {"bad": "no", "good": {"answer": 1}}
    with pytest.raises(ZeroDivisionError):
        list(run_all({"defect": lambda place: 1 / 0}, 1))


def test_every_gpu_has_one_job_at_a_time(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert visible_gpus() == ["4", "6"]
    busy, lock = [], threading.Lock()

    def job(place: Place) -> dict:
        with lock:
            assert place.gpu not in busy
            busy.append(place.gpu)
        time.sleep(0.02)
        with lock:
            busy.remove(place.gpu)
        return {"gpu": place.gpu}

    results = dict(run_all(dict.fromkeys(range(6), job), 2))
    assert {result["gpu"] for result in results.values()} == {"4", "6"}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus() == ["0", "1"]


def test_a_result_is_written_whole(tmp_path):
    from mmsalmask.provenance import write_result

    write_result(tmp_path / "folder" / "result.json", {"a": [1, 2]})
    assert json.loads((tmp_path / "folder" / "result.json").read_text()) == {"a": [1, 2]}
    with pytest.raises(TypeError):
        write_result(tmp_path / "folder" / "result.json", {"a": object()})
    assert json.loads((tmp_path / "folder" / "result.json").read_text()) == {"a": [1, 2]}
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["result.json"]
