"""tools/transfer.py: every task that data allows, with the right recipe, resumed and reported."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transfer

import mmsalmask  # noqa: F401  serves mmcv's operators where they are not compiled

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")
from mmdet.datasets import CocoDataset
from mmpretrain.models import ResNet
from PIL import Image
from running import run_tool
from scipy.io import savemat

from mmsalmask.checkpoint import load_checkpoint
from mmsalmask.config import load_config
from mmsalmask.data import ImageNet100
from mmsalmask.downstream import tasks as downstream
from mmsalmask.errors import InputError

ROOT = Path(__file__).resolve().parents[2]

SIZE = (64, 48)
BOX = (10, 8, 40, 36)  # x1, y1, x2, y2
XML = """<annotation><size><width>64</width><height>48</height></size><object><name>cat</name>
<difficult>0</difficult><bndbox><xmin>10</xmin><ymin>8</ymin><xmax>40</xmax><ymax>36</ymax></bndbox>
</object></annotation>"""


def draw(path: Path, color: tuple[int, int, int]) -> None:
    """A box of a colour on noise."""
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (*SIZE[::-1], 3), np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = color
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_voc(root: Path) -> None:
    """Four images of either year; those of the test of 2012 were trained on."""
    for year in (2007, 2012):
        home, names = root / f"VOC{year}", [f"{year}_{i}" for i in range(4)]
        for name in names:
            draw(home / "JPEGImages" / f"{name}.jpg", (200, 30, 30))
            (home / "Annotations").mkdir(exist_ok=True)
            (home / "Annotations" / f"{name}.xml").write_text(XML)
            labels = np.zeros(SIZE[::-1], np.uint8)
            labels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 8
            for folder in ("SegmentationClass", "SegmentationClassAug"):
                (home / folder).mkdir(exist_ok=True)
                Image.fromarray(labels).save(home / folder / f"{name}.png")
        for use, lists in (("Main", ("trainval", "test")), ("Segmentation", ("train", "aug"))):
            (home / "ImageSets" / use).mkdir(parents=True)
            for part, of_list in zip(lists, (names[:2], names[2:]), strict=True):
                (home / "ImageSets" / use / f"{part}.txt").write_text("\n".join(of_list))
        (home / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(names[1:3]))


def make_coco(root: Path) -> None:
    classes = CocoDataset.METAINFO["classes"]
    x, y, right, bottom = BOX
    box = {"bbox": [x, y, right - x, bottom - y], "area": (right - x) * (bottom - y)}
    box |= {"segmentation": [[x, y, right, y, right, bottom, x, bottom]], "iscrowd": 0}
    for split, count in (("train", 3), ("val", 4)):
        images = [
            {"id": i, "file_name": f"{split}{i}.jpg", "width": 64, "height": 48}
            for i in range(count)
        ]
        for image in images:
            draw(root / f"{split}2017" / image["file_name"], (30, 30, 200))
        content = {
            "info": {},
            "images": images,
            "categories": [{"id": i, "name": name} for i, name in enumerate(classes, 1)],
            "annotations": [
                {**box, "id": i + 1, "image_id": i, "category_id": 17} for i in range(count)
            ],
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


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
    for label, color in enumerate([(220, 20, 20), (20, 220, 20), (20, 20, 220)]):
        for i in range(8):
            draw(place / "data" / "caltech101" / f"class_{label}" / f"{'i' * (i + 1)}.jpg", color)
    make_voc(place / "data" / "VOCdevkit")
    make_coco(place / "elsewhere")
    return place


@pytest.fixture
def calls(monkeypatch) -> list[tuple[str, ...]]:
    """Tools run in this process, on tiny images; a list of them."""
    made = []
    # A worker would be a fork of this process, whose memory is that of all tests before.
    loaders = [f"{name}_dataloader" for name in ("train", "val", "test")]
    alone = [f"{loader}.num_workers=0" for loader in loaders]
    alone += [f"{loader}.persistent_workers=False" for loader in loaders]

    def call(script: Path, words: list[str], log: Path, place) -> None:
        made.append((script.name, *words))
        more = ["--cfg-options", *alone] if script.name in ("train.py", "test.py") else []
        outcome = run_tool(script.name, *words, *more)
        with log.open("a") as file:
            file.write(outcome.out + outcome.err)
        if outcome.status:
            raise InputError(outcome.sentence())

    monkeypatch.setattr(transfer, "call", call)
    # Every dataset that mmengine builds collects garbage, all of the test session's; and every
    # run lays its config out prettily, for seconds. Neither is what is tested here.
    monkeypatch.setattr("gc.collect", lambda: 0)
    monkeypatch.setattr("yapf.yapflib.yapf_api.FormatCode", lambda text, **_: (text, True))
    settings = {"SIDE": 64, "BATCH": 2, "ITERATIONS": 2, "TEST_IMAGES": 3}
    for name, value in settings.items():
        monkeypatch.setattr(downstream, f"SMALL_{name}", value)
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
    assert list(results) == JOBS
    assert "left out: linear-imagenet: there is no folder" in told
    assert "seg-cityscapes: there is no folder" in told
    assert [call[0] for call in calls] == ["linear.py", "knn.py", *["train.py", "test.py"] * 3]
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
    assert text.count("![") == page.count("data:image/png") == 4
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
    assert [call[0] for call in calls[seen:]] == ["test.py", "train.py", "test.py"]
    assert "--resume" in calls[seen + 1]
    log = (segmentation / "train.log").read_text()
    assert "iter: 1" in log
    assert "Iter(train) [1/2]" not in log
    assert again["seg-voc"]["resumed"]
    same = ("linear-caltech101", "knn-caltech101", "coco")
    assert all(again[name] == results[name] for name in same)
    assert again["voc"]["figures"] == results["voc"]["figures"]

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


def test_a_failed_job_is_told_and_the_others_are_reported(place, calls, monkeypatch, capsys):
    run_features = transfer.run_features

    def fail(*arguments, **keywords):
        if arguments[-2]["task"] == "knn":
            raise InputError("the neighbours have moved")
        return run_features(*arguments, **keywords)

    monkeypatch.setattr(transfer, "run_features", fail)
    with pytest.raises(SystemExit) as caught:
        run(place, "--tasks", "linear,knn", "--work-dir", str(place / "part"))
    assert caught.value.code == 2
    wanted = "error: 1 of the jobs failed: knn-caltech101: the neighbours have moved\n"
    assert capsys.readouterr().err.endswith(wanted)
    text = (place / "part" / "report.md").read_text()
    assert "- knn-caltech101: the neighbours have moved" in text
    assert "**this backbone, too small to compare**" in text


def backbone(**facts) -> transfer.Backbone:
    facts = {"high_pass": "unknown", "model": "unknown", **facts}
    return transfer.Backbone("name", {}, facts, "nothing", 50, Path("backbone.pth"))


@pytest.mark.parametrize(
    ("high_pass", "model"),
    [("true", "mmsalmask.MaskedSimCLR"), ("false", "mmsalmask.MaskedMoCo"), ("unknown", "unknown")],
)
def test_recipes_follow_filter_and_algorithm(high_pass, model):
    for name, recipe in transfer.RECIPES.items():
        file = backbone(high_pass=high_pass, model=model).recipe(recipe.config)
        assert file.is_file(), name
        assert ("-highpass" in file.name) == (high_pass == "true")
        if recipe.task == "linear":
            assert file.name.startswith("simclr" if "SimCLR" in model else "mocov2")
        config = load_config(str(file))
        per_process = config.train_dataloader.batch_size
        processes = int(file.stem.split("xb")[0].rpartition("_")[2])
        assert recipe.batch == per_process * processes, name


def test_a_backbone_that_the_recipes_are_not_for_is_refused(tmp_path, capsys):
    state = ResNet(18, base_channels=8).state_dict()
    torch.save({"state_dict": state}, tmp_path / "slim.pth")
    with pytest.raises(SystemExit) as caught:
        transfer.main([str(tmp_path / "slim.pth"), "--data-root", str(tmp_path)])
    assert caught.value.code == 2
    assert "is no plain ResNet of 18, 34, 50, 101, 152 layers" in capsys.readouterr().err


def options(place: Path, **values) -> argparse.Namespace:
    return argparse.Namespace(**{"train_per_class": 2, "seed": 0, "schedule": "full", **values})


def test_imagenet100_and_flowers102_are_linked_as_folders_of_classes(tmp_path):
    for split in ("train", "val"):
        for wnid in (*ImageNet100.METAINFO["classes"], "n00000000"):
            draw(tmp_path / "imagenet" / split / wnid / f"{wnid}.JPEG", (9, 9, 9))
    words, shown, counts = transfer.labelled(
        "imagenet", tmp_path / "imagenet", tmp_path / "links", options(tmp_path)
    )
    assert counts == {"train_images": 100, "test_images": 100}
    assert words == [f"--{side}={tmp_path / 'links/imagenet' / side}" for side in ("train", "test")]
    assert shown == tmp_path / "links" / "imagenet" / "test"

    flowers = tmp_path / "flowers102"
    for i in range(1, 7):
        draw(flowers / "jpg" / f"image_{i:05d}.jpg", (9, 9, 9))
    savemat(flowers / "imagelabels.mat", {"labels": [1, 2, 1, 2, 1, 2]})
    savemat(flowers / "setid.mat", {"trnid": [1, 2], "valid": [3, 4], "tstid": [5, 6]})
    for _ in range(2):  # the second time over the links of the first
        words, _, counts = transfer.labelled(
            "flowers102", flowers, tmp_path / "links", options(tmp_path)
        )
    assert counts == {"train_images": 4, "test_images": 2}
    first = tmp_path / "links" / "flowers102" / "train" / "000"
    assert sorted(path.name for path in first.iterdir()) == ["image_00001.jpg", "image_00003.jpg"]
    (flowers / "setid.mat").unlink()
    with pytest.raises(InputError, match=r"there is no .*setid\.mat"):
        transfer.labelled("flowers102", flowers, tmp_path / "other", options(tmp_path))


def test_the_full_schedule_trains_the_linear_recipe(place, monkeypatch):
    for name in ("train.py", "test.py"):
        assert (transfer.TOOLS / name).is_file()
    given = argparse.Namespace(
        tasks=["linear"],
        named=True,
        data={name: place / "data" / name for name in transfer.FOLDERS},
        **vars(options(place)),
    )
    jobs, skipped = transfer.plan(backbone(source_sha256="0"), place / "full", given)
    assert list(jobs) == ["linear-caltech101"]
    assert len(skipped) == 2
    config, folder, facts = jobs["linear-caltech101"].run.args
    assert jobs["linear-caltech101"].run.func is transfer.run_training
    assert config.train_dataloader.dataset.train_per_class == 2
    assert config.test_dataloader.dataset.train_per_class == 2
    assert config.optim_wrapper.optimizer.lr == 30
    assert facts["train_images"] == 6
    assert facts["test_images"] == 18
    figures = {"accuracy/top1": 50.0, "mean_per_class/recall": 40.0}
    found = transfer.FINDINGS["linear"](figures, config, folder, facts)
    assert found == {"figures": {"caltech101_top1": 50.0}, "mean_per_class": 40.0}
