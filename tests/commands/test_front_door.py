"""The commands that need no config: train --method --data, models, doctor."""

import ast
import inspect
import re
import sys
from pathlib import Path

import pytest

import mmsalmask as sm
from mmsalmask import __main__ as entry
from mmsalmask.commands import doctor


def call(monkeypatch, capsys, *words) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["mmsalmask", *words])
    status = 0
    try:
        entry.main()
    except SystemExit as exit:
        status = exit.code or 0
    out, err = capsys.readouterr()
    return status, out, err


def test_doctor_says_in_ten_lines_that_all_is_well(monkeypatch, capsys):
    status, out, _ = call(monkeypatch, capsys, "doctor")
    assert status == 0, out
    assert len(out.splitlines()) == 10
    for word in (
        "mmsalmask",
        "Python",
        "torch ",
        "mmcv",
        "GPU",
        "NMS",
        "TensorBoard",
        "11 encoders",
    ):
        assert word in out


def test_doctor_names_what_is_missing_too_old_or_fails(monkeypatch, capsys):
    ranges = {"torch": ">=99", "torchvision": ">=0.1"}
    monkeypatch.setattr(doctor, "supported", lambda: ranges)
    monkeypatch.setitem(doctor._GROUPS, "PyTorch", ("torch", "torchvision", "nonesuch"))

    def broken():
        """TensorBoard"""
        raise OSError("no room\nat all")

    monkeypatch.setattr(doctor, "tensorboard", broken)
    status, out, _ = call(monkeypatch, capsys, "doctor")
    assert status == 1
    bad = [line for line in out.splitlines() if line.startswith("BAD")]
    assert len(bad) == 2
    assert "(supported: >=99)" in bad[0]
    assert "nonesuch missing" in bad[0]
    assert bad[1] == "BAD  TensorBoard: OSError: no room"


def test_models_lists_encoders_and_methods(monkeypatch, capsys):
    status, out, _ = call(monkeypatch, capsys, "models")
    assert status == 0
    for name in [*sm.list_models(), *sm.list_methods()]:
        assert name in out


def test_train_takes_a_method_and_images_instead_of_a_config(monkeypatch, capsys, tmp_path):
    given, signature = {}, inspect.signature(sm.pretrain)

    def pretrain(*values):
        given.update(signature.bind(*values).arguments)

    pretrain.__signature__ = signature
    monkeypatch.setattr(sm, "pretrain", pretrain)
    words = ["train", "--method", "simclr-mscn", "--data", "a", "b", "--work-dir", "out"]
    words += ["--size", "64", "--amp", "bfloat16", "--cfg-options", "model.queue_len=8", "--resume"]
    assert call(monkeypatch, capsys, *words)[0] == 0
    assert given == dict(
        data=["a", "b"],
        out="out",
        method="simclr-mscn",
        backbone="resnet50",
        size=64,
        epochs=200,
        batch_size=128,
        lr=None,
        amp="bfloat16",
        devices=1,
        localizer=None,
        overrides={"model.queue_len": 8},
        resume=True,
        tracker=None,
    )


def test_a_mistake_is_one_sentence(monkeypatch, capsys, tmp_path):
    words = ["train", "--method=mocov3", "--data", str(tmp_path), "--work-dir", str(tmp_path / "o")]
    status, out, err = call(monkeypatch, capsys, *words)
    assert (status, out) == (2, "")
    assert err.startswith("error: no method named 'mocov3': did you mean")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["embed", "diagnose", "report", "models", "doctor"])
def test_a_command_is_told_in_the_usage(command, monkeypatch, capsys):
    status, out, _ = call(monkeypatch, capsys, "--help")
    assert status == 0
    assert f"\n  {command} " in out


def test_the_extras_have_the_ranges_that_the_tests_run_with():
    root = Path(__file__).resolve().parents[2]
    text = (root / "requirements-dev.txt").read_text()
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    extras = re.search(r"^EXTRAS = (\{.*?^\})", (root / "setup.py").read_text(), re.M | re.S)
    for wanted in ast.literal_eval(extras[1]).values():
        assert set(wanted) <= set(lines)
