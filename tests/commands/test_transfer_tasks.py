"""tools/transfer.py: every task that data allows, with the right recipe, resumed and reported."""

import json
import re
from pathlib import Path

import pytest
import torch

import mmsalmask  # noqa: F401  serves mmcv's operators where they are not compiled

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")
from drawn import draw_example
from mmpretrain.models import ResNet
from running import run_tool

from mmsalmask import jobs
from mmsalmask.checkpoint import load_checkpoint
from mmsalmask.commands import transfer
from mmsalmask.config import load_config
from mmsalmask.downstream import trained
from mmsalmask.downstream.backbone import read_backbone
from mmsalmask.downstream.task import Setting, known_datasets, registered
from mmsalmask.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A checkpoint of a high-pass run, and a data root with Caltech-101, VOC and COCO in small."""
    place = tmp_path_factory.mktemp("transfer")
    torch.manual_seed(0)
    state = {f"backbone.{key}": value for key, value in ResNet(18).state_dict().items()}
    config = load_config(str(ROOT / "configs/demo/mocov2-salmask-highpass_resnet18_demo.py"))
    meta = {"cfg": config.pretty_text, "epoch": 3}
    (place / "run").mkdir()
    torch.save({"state_dict": state, "meta": meta}, place / "run" / "epoch_3.pth")
    for task in registered():
        draw_example(task, place / "data")
    (place / "data" / "coco").rename(place / "elsewhere")
    return place


@pytest.fixture
def calls(monkeypatch) -> list[tuple[str, ...]]:
    """Tools run in this process, on tiny images; a list of them."""
    made = []
    # A worker would be a fork of this process, whose memory is that of all tests before.
    loaders = [f"{name}_dataloader" for name in ("train", "val", "test")]
    alone = [f"{loader}.num_workers=0" for loader in loaders]
    alone += [f"{loader}.persistent_workers=False" for loader in loaders]

    def call(command: str, *words: str, log: Path, place) -> None:
        made.append((command, *words))
        more = ["--cfg-options", *alone] if command in ("train", "test") else []
        outcome = run_tool(f"{command}.py", *words, *more)
        with log.open("a") as file:
            file.write(outcome.out + outcome.err)
        if outcome.status:
            raise InputError(outcome.sentence())

    monkeypatch.setattr(jobs, "call", call)
    # Every dataset that mmengine builds collects garbage, all of the test session's; and every
    # run lays its config out prettily, for seconds. Neither is what is tested here.
    monkeypatch.setattr("gc.collect", lambda: 0)
    monkeypatch.setattr("yapf.yapflib.yapf_api.FormatCode", lambda text, **_: (text, True))
    settings = {"SIDE": 64, "BATCH": 2, "ITERATIONS": 2, "TEST_IMAGES": 3}
    for name, value in settings.items():
        monkeypatch.setattr(trained, f"SMALL_{name}", value)
    return made


def run(place: Path, *words: str) -> dict:
    transfer.main(
        [
            str(place / "run" / "epoch_3.pth"),
            *("--schedule", "small", "--train-per-class", "5", "--seed", "1"),
            *("--data-root", str(place / "data"), "--work-dir", str(place / "out"), *words),
        ]
    )
    return json.loads((place / "out" / "results.json").read_text())["results"]


JOBS = ["linear-caltech101", "knn-caltech101", "voc", "coco", "seg-voc"]


def test_all_tasks_run_resume_and_end_in_a_report(place, calls, capsys):
    data = ("--data", f"coco={place / 'elsewhere'}")
    results = run(place, *data)
    told = capsys.readouterr().out
    assert [name for name in results if name in JOBS] == JOBS
    assert {result["task"] for result in results.values()} == registered().keys()
    assert "left out: linear-imagenet: there is no folder" in told
    assert "seg-cityscapes: there is no folder" in told
    assert [call[0] for call in calls] == ["linear", "knn", *["train", "test"] * 3]
    exported = load_checkpoint(place / "out" / "backbone.pth")
    assert exported["meta"]["high_pass"] == "true"
    for name, result in results.items():
        assert "-highpass" in result["recipe"], name
        assert result["schedule"] == "small"
        assert result["seed"] == 1
        assert result["commit"]
        assert result["hardware"]
        assert json.loads((place / "out" / name / "result.json").read_text()) == result
    for name in ("voc", "coco", "seg-voc"):
        written = load_config(str(place / "out" / name / "config.py"))
        assert written.model.backbone.depth == 18
        assert written.model.backbone.init_cfg.checkpoint == str(place / "out" / "backbone.pth")
    assert results["voc"]["train_images"] == 4
    assert results["coco"]["test_images"] == 3
    assert results["seg-voc"]["shared_images"] == 2
    assert results["knn-caltech101"]["by_k"].keys() == {"15"}
    assert len(results["knn-caltech101"]["embedding"]["points"]) == 24
    assert results["coco"]["figures"].keys() == {
        f"coco_{kind}_ap{overlap}" for kind in ("box", "mask") for overlap in ("", "50", "75")
    }

    text = (place / "out" / "report.md").read_text()
    page = (place / "out" / "report.html").read_text()
    assert "Too small to compare" in text
    assert all(f"\n## {task.heading}\n" in text for task in registered().values())
    assert "- high-pass filtered images: yes" in text
    assert f"**{results['linear-caltech101']['figures']['caltech101_top1']:.2f}**" in text
    assert f"**{results['voc']['figures']['voc_ap50']:.2f}**" in text
    assert "| MoCov2 | Saliency (high-pass filtering) | 73.80 |" in text
    assert "2 of the 2 test images of seg-voc are among its training images" in text
    assert "- linear-imagenet: there is no folder" in text
    # Two iterations find nothing, and no curve of it is drawn.
    (left_out,) = (line for line in text.splitlines() if line.startswith("Left out, because "))
    for curve in ("VOC, boxes", "COCO, boxes", "COCO, masks"):
        assert f"{curve} (0." in left_out
    pictures = re.findall(r"!\[(.*?)\]", text)
    shown = {"t-SNE of Caltech-101", "Found on VOC", "Found on COCO", "Segmentation of VOC"}
    assert shown <= set(pictures)
    assert "Precision and recall" not in pictures
    assert len(pictures) == page.count("data:image/png")
    assert "this backbone" in told

    # As if killed: before VOC's detector was tested, and while the segmentation was trained.
    out, seen = place / "out", len(calls)
    segmentation = out / "seg-voc"
    for name in ("voc", "seg-voc"):
        (out / name / "result.json").unlink()
    (segmentation / "trained").unlink()
    (segmentation / "train" / "iter_2.pth").unlink()
    (segmentation / "train" / "last_checkpoint").write_text(str(segmentation / "train/iter_1.pth"))
    (segmentation / "train.log").unlink()
    again = run(place, *data)
    assert [call[0] for call in calls[seen:]] == ["test", "train", "test"]
    assert "--resume" in calls[seen + 1]
    log = (segmentation / "train.log").read_text()
    assert "iter: 1" in log
    assert "Iter(train) [1/2]" not in log
    assert again["seg-voc"]["resumed"]
    same = ("linear-caltech101", "knn-caltech101", "coco")
    assert all(again[name] == results[name] for name in same)
    assert again["voc"]["figures"] == results["voc"]["figures"]

    # A report tells what earlier commands have finished, too.
    assert run(place, "--tasks", "knn") == again
    backbone = read_backbone(place / "run" / "epoch_3.pth", out, "small")
    folders = dict.fromkeys(known_datasets(), place)
    for schedule, seed in (("full", 1), ("small", 2)):
        assert not transfer.finished(Setting(backbone, folders, out, schedule, 5, seed))

    with pytest.raises(SystemExit):
        run(place, "--tasks", "linear", "--seed", "2")
    assert "holds a run with seed = 1, not 2: choose another --work-dir" in capsys.readouterr().err


def test_a_task_that_is_named_needs_its_data_before_anything_is_written(place, calls, capsys):
    with pytest.raises(SystemExit) as caught:
        run(place, "--tasks", "knn,coco", "--work-dir", str(place / "none"))
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error == f"error: --tasks coco: coco: there is no folder {place / 'data' / 'coco'}\n"
    wrong = str(place / "data" / "VOCdevkit")
    with pytest.raises(SystemExit):
        run(place, "--tasks", "coco", "--work-dir", str(place / "none"), "--data", f"coco={wrong}")
    assert "there is no " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(place, "--data-root", str(place), "--work-dir", str(place / "none"))
    assert "there is no data for any task below" in capsys.readouterr().err
    assert not (place / "none").exists()
    assert not calls


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--tasks", "voc,depth"), "no task 'depth'; there are linear, knn, voc, coco, seg"),
        (("--data", "kitti=here"), "give NAME=FOLDER with a NAME of imagenet"),
        (("--data", "coco"), "give NAME=FOLDER"),
    ],
)
def test_words_that_are_unknown_are_refused(place, capsys, words, sentence):
    with pytest.raises(SystemExit) as caught:
        run(place, *words)
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_schedule_that_is_unknown_is_refused(place):
    with pytest.raises(InputError, match="the schedule is 'tiny': give one of full, small"):
        transfer.transfer(place / "run" / "epoch_3.pth", schedule="tiny")


def test_the_folder_of_another_backbones_report_is_refused(place, calls, capsys):
    jobs.claim(place / "other", {"source_sha256": "1"})
    with pytest.raises(SystemExit):
        run(place, "--tasks", "knn", "--work-dir", str(place / "other"))
    assert "holds a run with source_sha256 = '1', not '" in capsys.readouterr().err
    assert not calls


def test_a_failed_job_is_told_and_the_others_are_reported(place, calls, monkeypatch, capsys):
    def fail(*arguments):
        raise InputError("the neighbours have moved")

    monkeypatch.setattr(registered()["knn"], "run", fail)
    with pytest.raises(SystemExit) as caught:
        run(place, "--tasks", "linear,knn", "--work-dir", str(place / "part"))
    assert caught.value.code == 2
    wanted = "error: 1 of the jobs failed: knn-caltech101: the neighbours have moved\n"
    assert capsys.readouterr().err.endswith(wanted)
    text = (place / "part" / "report.md").read_text()
    assert "- knn-caltech101: the neighbours have moved" in text
    assert "**this backbone, too small to compare**" in text


def test_a_backbone_that_the_recipes_are_not_for_is_refused(tmp_path, capsys):
    state = ResNet(18, base_channels=8).state_dict()
    torch.save({"state_dict": state}, tmp_path / "slim.pth")
    with pytest.raises(SystemExit) as caught:
        transfer.main([str(tmp_path / "slim.pth"), "--data-root", str(tmp_path)])
    assert caught.value.code == 2
    assert "is no plain ResNet of 18, 34, 50, 101, 152 layers" in capsys.readouterr().err
