"""Signals: noticed, agreed on, outlived by workers; and what launchers' scripts make of them."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from mmsalmask.cli import STOPPED_STATUS, report_errors
from mmsalmask.engine.resume.draws import seeded_loader
from mmsalmask.engine.resume.stopping import StopSignals
from mmsalmask.errors import Stopped

TOOLS = Path(__file__).resolve().parents[3] / "tools"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_is_noticed_and_the_handlers_come_back(number, capsys):
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert not signals.asked()
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # the echo of a launcher, not a second order
        assert signals.asked()
        assert signals.name == signal.Signals(number).name
    assert signal.getsignal(number) == before
    assert capsys.readouterr().err.count("saving after this iteration") == 1


def test_a_pool_can_end_its_workers_however_young_they_are():
    """Evaluations use pools, which end workers by SIGTERM as soon as there is no more work."""
    with StopSignals() as signals:
        for _ in range(40):
            children = []
            for _ in range(3):
                child = os.fork()
                if child == 0:
                    time.sleep(20)
                    os._exit(0)
                children.append(child)
                os.kill(child, signal.SIGTERM)  # perhaps before Python has set the child up
            assert [os.WTERMSIG(os.waitpid(child, 0)[1]) for child in children] == [15] * 3
        assert not signals.asked()


def test_a_second_signal_ends_the_process_at_once():
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with StopSignals():
            os.write(tell, b".")
            while True:  # an iteration without end
                time.sleep(0.01)
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    time.sleep(1.2)
    assert os.waitpid(child, os.WNOHANG) == (0, 0)
    # One that comes within a second of when the first was handled is taken for the same.
    for _ in range(100):
        os.kill(child, signal.SIGTERM)
        time.sleep(1.2)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended == child
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGTERM


def test_a_stop_is_told_and_has_a_status_of_its_own(capsys):
    with pytest.raises(SystemExit) as caught, report_errors():
        raise Stopped("stopped and saved")
    assert caught.value.code == STOPPED_STATUS == 75
    assert capsys.readouterr().err == "stopped and saved\n"


class Slow(torch.utils.data.Dataset):
    """Tells which process it is loaded by."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[int, int]:
        time.sleep(0.01)
        return index, os.getpid()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_the_workers_outlive_a_signal_to_all_processes(number):
    loader = seeded_loader(DataLoader(Slow(), 2, num_workers=2, collate_fn=list), seed=0)
    seen, workers, told = [], set(), False
    for batch in loader:
        workers |= {process for _, process in batch}
        if len(workers) == 2 and not told:  # both are up
            told = True
            for worker in loader_processes():
                os.kill(worker, number)
        seen += [index for index, _ in batch]
    assert told
    assert seen == list(range(40))


def loader_processes() -> list[int]:
    return [process.pid for process in torch.multiprocessing.active_children()]


# ------------------------------------------------------------------------------------ scripts


def script(name: str, folder: Path, status: int, *words: str, **environment: str):
    """Run a launcher's script where srun, python and scontrol only write down their arguments."""
    for program, code in (("srun", status), ("scontrol", 0), ("python", status)):
        path = folder / program
        path.write_text(f'#!/bin/sh\necho {program} "$@" >> {folder}/calls\nexit {code}\n')
        path.chmod(0o755)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "PYTHON"))}
    done = subprocess.run(
        [str(TOOLS / name), *words],
        env={**clean, "PATH": f"{folder}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize(
    ("status", "job", "requeued"),
    [(0, "42", False), (1, "42", False), (STOPPED_STATUS, "42", True), (STOPPED_STATUS, "", False)],
)
def test_slurm_puts_a_saved_job_back_into_the_queue(tmp_path, status, job, requeued):
    words = ["gpu", "name", "config.py", "--amp"]
    environment = {"SLURM_JOB_ID": job} if job else {}
    done, calls = script("slurm_train.sh", tmp_path, status, *words, **environment)
    assert done.returncode == status
    assert calls[0].startswith("srun -p gpu --job-name=name ")
    assert calls[0].endswith("train.py config.py --launcher slurm --amp")
    assert calls[1:] == (["scontrol requeue 42"] if requeued else [])


def test_torchrun_starts_again_as_often_as_it_is_told(tmp_path):
    for expected, environment in (("0", {}), ("3", {"MAX_RESTARTS": "3"})):
        _, calls = script("dist_train.sh", tmp_path, 0, "config.py", "2", **environment)
        assert f" --max_restarts={expected} " in calls[-1]
