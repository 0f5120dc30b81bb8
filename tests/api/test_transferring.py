"""sm.transfer hands everything on to the transfer tool, and its errors back."""

import subprocess
import sys

import pytest

import mmsalmask as sm
from mmsalmask.errors import InputError


def test_what_the_tool_refuses_is_told(run, tmp_path, capfd):
    with pytest.raises(InputError) as caught:
        sm.transfer(run, tmp_path / "out", data_root=tmp_path, tasks=["voc"])
    assert "is no plain ResNet" in str(caught.value)  # it has eight channels
    assert "\n" not in str(caught.value)
    assert not str(caught.value).startswith("error")


def test_every_argument_reaches_the_tool(run, tmp_path, monkeypatch):
    started = []
    real = subprocess.Popen

    def start(command, **options):
        started.append(command)
        return real([sys.executable, "-c", "print('done')"], **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    data = {"caltech101": tmp_path / "c", "voc": "v"}
    report = sm.transfer(run, tmp_path, "root", data, ["linear", "knn"], "small", 20, 3)
    assert report == tmp_path / "report.html"
    words = " ".join(started[0][1:])
    assert words == (
        f"-m mmsalmask transfer {run.checkpoint} --work-dir {tmp_path} --data-root root "
        "--schedule small --train-per-class 20 --seed 3 "
        f"--data caltech101={tmp_path / 'c'} voc=v --tasks linear,knn"
    )
