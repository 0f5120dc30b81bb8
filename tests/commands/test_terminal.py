"""What a user reads of a training: a header, its progress, what comes next, and an error last."""

import io
import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import running
import torch
from mmengine.logging import MMLogger, print_log
from running import Outcome, run_tool
from test_train import TINY, draw

from mmsalmask.algorithms import MaskedMoCo
from mmsalmask.engine import terminal
from mmsalmask.engine.terminal import SHOWN, Console
from mmsalmask.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
NOISE = ("OneDL", "FileClient", "HardDiskBackend", "Exp name", "Hooks will", "System environment")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A config of three epochs of two iterations, every one of them logged, and eight images."""
    folder = tmp_path_factory.mktemp("reads")
    saves = "default_hooks = dict(checkpoint=dict(interval=1"
    assert saves in TINY
    text = TINY.replace(saves, f"{saves}, max_keep_ckpts=3), logger=dict(interval=1")
    (folder / "tiny.py").write_text(text.replace("epochs = 1", "epochs = 3"))
    draw(folder / "images", 8)
    return folder


def words(place: Path, work: str, *more: str, **options) -> list[str]:
    settings = {"data_root": place / "images", **options}
    return [
        *(str(place / "tiny.py"), "--work-dir", str(place / work), *more, "--cfg-options"),
        *(f"{key}={value}" for key, value in settings.items()),
    ]


def run(place: Path, work: str, *more: str, **options) -> Outcome:
    return run_tool("train.py", *words(place, work, *more, **options))


@pytest.fixture(scope="module")
def done(place) -> list[str]:
    """The lines that a whole run prints into a pipe, from a process of its own, errors included."""
    ran = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "train.py"), *words(place, "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert ran.returncode == 0, ran.stdout
    return ran.stdout.splitlines()


def test_a_run_tells_what_trains_how_it_goes_and_what_comes_next(place, done):
    log = "".join(path.read_text() for path in (place / "run").glob("*/*.log"))
    for noise in NOISE:
        assert noise not in "".join(done)
    assert " - WARNING - " not in log  # libraries warn of nothing that the user could change
    assert "System environment" in log
    assert "Hooks will be executed" in log
    assert log.count("Epoch(train)") == 6
    assert all(len(line) <= 100 for line in done)
    first = next(i for i, line in enumerate(done) if line.startswith("epoch "))
    last = next(i for i, line in enumerate(done) if line.startswith("done after "))
    header = "\n".join(done[:first])
    assert first <= 10
    state = torch.load(place / "run" / "epoch_3.pth", weights_only=False)["state_dict"]
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    trained = sum(
        value.numel()
        for name, value in state.items()
        if name.startswith(("backbone.", "neck.")) and not name.endswith(statistics)
    )
    for part in (
        "training  tiny\n",
        f"MaskedMoCo, ResNet-18, {trained / 1e6:.2f} million",
        "masks     MeanFill, 7×7 patches",
        "images    8 of images\n",
        "3 epochs of 2 iterations of 4 images; SGD, lr 0.0",
        "device    cpu, 1 thread, float32\n",
        "work dir  run\n",
    ):
        assert part in header
    assert [line.split("  loss")[0] for line in done[first:last]] == [
        f"epoch {epoch}/3  {i}/2" for epoch in (1, 2, 3) for i in (1, 2)
    ]
    for line in done[first:last]:
        assert " images/s  eta 0:" in line
    assert done[last].endswith(": checkpoint run/epoch_3.pth")
    assert done[last + 1] == "next:"
    assert len(done) < 30


def test_the_commands_that_come_next_work(place, done, monkeypatch):
    for side, count in (("train", 10), ("test", 2)):
        for name in ("a", "b"):
            draw(place / side / name, count)
    commands = "\n".join(done[done.index("next:") + 1 :]).replace(" \\\n", " ").splitlines()
    given = {"TRAIN": "train", "TEST": "test", "IMAGES": "train"}
    tools = []
    monkeypatch.chdir(place)
    for command in commands:
        python, tool, *rest = command.split()
        assert (python, Path(tool).parent) == ("python", ROOT / "tools")
        outcome = run_tool(Path(tool).name, *(given.get(word, word) for word in rest))
        assert outcome.status == 0, outcome.err
        tools.append(Path(tool).stem)
    assert tools == ["diagnose", "knn", "export_backbone"]


def test_loss_and_accuracy_are_means_over_the_window(place, done):
    (file,) = (place / "run").rglob("scalars.json")
    logged = [line for line in map(json.loads, file.open()) if "contrast_accuracy" in line]
    means = [line["contrast_accuracy"] for line in logged]
    pairs = zip(means, [0, *means], strict=False)
    exact = [i * now - (i - 1) * before for i, (now, before) in enumerate(pairs, 1)]
    assert all(value == pytest.approx(25 * round(value / 25)) for value in exact)  # of four images
    assert len({round(value) for value in exact}) > 1
    lines = [line for line in done if line.startswith("epoch ")]
    for i, line in enumerate(lines, 1):
        assert f"loss {logged[i - 1]['loss']:.4f}  " in line  # which mmengine averages
        assert f"contrast accuracy {means[i - 1]:.1f} %  " in line


def every_iteration_takes(seconds, monkeypatch) -> None:
    """By the clock of the terminal."""
    steps = []
    step = MaskedMoCo.train_step

    def counted(*arguments, **options):
        steps.append(seconds)
        return step(*arguments, **options)

    monkeypatch.setattr(MaskedMoCo, "train_step", counted)
    monkeypatch.setattr(terminal, "monotonic", lambda: sum(steps))


def test_the_remaining_time_is_right_after_resuming(place, done, monkeypatch):
    """By a clock on which every iteration takes ten seconds."""
    every_iteration_takes(10, monkeypatch)
    shutil.copytree(place / "run", place / "killed")
    for name in ("epoch_2.pth", "epoch_3.pth"):
        (place / "killed" / name).unlink()
    outcome = run(place, "killed", "--resume")
    assert outcome.status == 0, outcome.err
    lines = outcome.out.splitlines()
    times = [line.split("eta ")[1] for line in lines if line.startswith("epoch ")]
    assert times == ["0:00:30", "0:00:20", "0:00:10", "0:00:00"]
    assert f"start     resumes {place / 'killed' / 'epoch_1.pth'}" in outcome.out
    assert any(line.startswith("done after 0:00:40: checkpoint ") for line in lines)


def test_slow_iterations_are_told_before_a_log_line_is_due(place, monkeypatch):
    """By a clock on which every iteration takes twenty seconds."""
    every_iteration_takes(20, monkeypatch)
    settings = {
        "train_cfg.max_epochs": 1,
        "train_dataloader.batch_size": 2,
        "default_hooks.logger.interval": 1000,
    }
    outcome = run(place, "slow", **settings)
    assert outcome.status == 0, outcome.err
    lines = [line for line in outcome.out.splitlines() if line.startswith("epoch ")]
    assert [line[: len("epoch 1/1  2/4")] for line in lines] == ["epoch 1/1  2/4", "epoch 1/1  4/4"]
    assert lines[0].endswith("eta 0:00:40")


def test_verbose_prints_all_that_the_log_file_has(place):
    outcome = run(place, "verbose", "--verbose", **{"train_cfg.max_epochs": 1})
    assert outcome.status == 0, outcome.err
    for part in ("System environment", "Config:", "Hooks will be", "Epoch(train)", "hard_accuracy"):
        assert part in outcome.out
    assert "training  tiny" not in outcome.out


class _Screen(io.StringIO):
    """A stream that is a terminal, and what stands on it in the end."""

    def isatty(self) -> bool:
        return True

    @staticmethod
    def lines(text: str) -> list[str]:
        return [line.rpartition("\r")[2].rstrip() for line in text.split("\n")]


@pytest.fixture
def screen(monkeypatch):
    monkeypatch.setattr(running, "io", SimpleNamespace(StringIO=_Screen))
    monkeypatch.setenv("COLUMNS", "60")


def test_on_a_terminal_an_epoch_is_one_line_that_lives(place, screen):
    outcome = run(place, "live", **{"train_cfg.max_epochs": 2})
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("\r") == 2
    lines = [line for line in _Screen.lines(outcome.out) if line.startswith("epoch ")]
    assert [line.split("  loss")[0] for line in lines] == ["epoch 1/2  2/2", "epoch 2/2  2/2"]
    assert all(len(line) < 60 for line in lines)


def test_an_error_stands_on_a_line_of_its_own(place, screen, monkeypatch):
    step, steps = MaskedMoCo.train_step, []

    def fail_late(*arguments, **options):
        if len(steps) == 1:
            raise InputError("the disk melts")
        steps.append(1)
        return step(*arguments, **options)

    monkeypatch.setattr(MaskedMoCo, "train_step", fail_late)
    outcome = run(place, "fails")
    assert outcome.sentence() == "the disk melts"
    assert _Screen.lines(outcome.out)[-2].startswith("epoch 1/3  1/2  loss ")
    assert outcome.out.endswith("\n")


def test_an_error_comes_after_all_that_a_pipe_holds_back():
    code = (
        "from mmsalmask.cli import report_errors\nfrom mmsalmask.errors import InputError\n"
        "with report_errors():\n print('before')\n raise InputError('no')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert ran.stdout.splitlines() == ["before", "error: no"]


def test_iterations_are_counted_where_epochs_do_not_matter(place):
    (place / "by_iteration.py").write_text(
        f"_base_ = {str(place / 'tiny.py')!r}\n"
        "train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=10)\n"
        "train_dataloader = dict(sampler=dict(type='InfiniteSampler', shuffle=True))\n"
        "log_processor = dict(by_epoch=False)\n"
        "default_hooks = dict(checkpoint=dict(by_epoch=False, interval=10))\n"
        "param_scheduler = [dict(type='ConstantLR', factor=1., by_epoch=False)]\n"
    )
    given = words(place, "by_iteration")
    outcome = run_tool("train.py", str(place / "by_iteration.py"), *given[1:])
    assert outcome.status == 0, outcome.err
    assert "10 iterations of 4 images; SGD" in outcome.out
    lines = [line for line in outcome.out.splitlines() if line.startswith("iteration ")]
    assert [line.split("  loss")[0] for line in lines] == [
        f"iteration {i:>2}/10" for i in range(1, 11)
    ]


def test_long_lines_are_folded_and_those_of_a_long_path_are_not():
    path = "/a" * 46
    assert terminal.fold(f"work dir  {path}\n\n  end") == f"work dir  {path}\n\n  end"
    assert terminal.fold("ab " * 40, "  ") == "ab " * 32 + "ab\n  " + "ab " * 6 + "ab"


@pytest.fixture
def logger(tmp_path):
    made = MMLogger("console", log_file=str(tmp_path / "all.log"))
    made.handlers[0].stream = io.StringIO()
    Console.replace_in(made)
    yield made
    made.handlers[1].close()


def test_our_warnings_are_shown_and_those_of_the_libraries_are_in_the_log(logger, tmp_path):
    logger.info("Config: " + "a line " * 30)
    print_log("layers of another part are left over", logger, logging.WARNING)
    logger.warning("the embeddings collapse: " + "look at the views " * 20)
    logger.info("kNN after epoch 2: 80.00", extra=SHOWN)
    print_log("the file is damaged", logger, logging.ERROR)
    shown = logger.handlers[0].stream.getvalue()
    lines = shown.splitlines()
    assert lines[0].startswith("warning: the embeddings collapse: look at the views look")
    assert " ".join(" ".join(lines).split()).count("look at") == 20
    assert lines[-2:] == ["kNN after epoch 2: 80.00", "error: the file is damaged"]
    assert all(len(line) <= 100 for line in lines)
    log = (tmp_path / "all.log").read_text()
    for part in ("Config: ", "layers of another part", "embeddings collapse", "kNN", "damaged"):
        assert part in log


def test_what_pycocotools_prints_and_python_warns_of_is_in_the_log(logger, tmp_path, capsys):
    coco = pytest.importorskip("pycocotools.coco")
    truth = {"images": [], "annotations": [], "categories": []}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    with terminal._libraries_log(logger):
        coco.COCO(str(tmp_path / "truth.json"))
        warnings.warn("too old", stacklevel=1)
    assert capsys.readouterr() == ("", "")
    log = (tmp_path / "all.log").read_text()
    assert "creating index" in log
    assert "UserWarning: too old" in log
    coco.COCO(str(tmp_path / "truth.json"))
    assert "creating index" in capsys.readouterr().out


def test_the_figures_of_an_evaluation_are_told_of_whatever_type_they_are():
    stream = io.StringIO()
    hook = terminal.ProgressHook(Console(stream, logging.INFO))
    runner = SimpleNamespace(train_loop=None, iter=2, max_iters=4)
    figures = {"mIoU": np.float32(0.5), "bbox_mAP": 0.25, "images": 3, "classes": ["a", "b"]}
    hook.after_val_epoch(runner, figures)
    assert stream.getvalue() == "iteration 2/4  mIoU 0.5  bbox_mAP 0.25  images 3\n"
