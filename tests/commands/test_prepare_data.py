"""tools/prepare_data.py: it sees what is missing, says how to get it, and touches nothing."""

import shlex
from pathlib import Path

import pytest
from running import run_tool

from mmsalmask.commands import prepare_data
from mmsalmask.data import ImageNet100

YEARS = {2007: ("trainval", "test"), 2012: ("trainval",)}


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")


@pytest.fixture
def root(tmp_path) -> Path:
    """All of VOC with an image per list; one class of ImageNet-100 without its folder."""
    for year, splits in YEARS.items():
        home = f"VOCdevkit/VOC{year}"
        for split in splits:
            name = f"{year}_{split}"
            touch(tmp_path, f"{home}/JPEGImages/{name}.jpg", f"{home}/Annotations/{name}.xml")
            (tmp_path / home / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
            (tmp_path / home / f"ImageSets/Main/{split}.txt").write_text(f"{name}\n")
    for split in ("train", "val"):
        for wnid in ImageNet100.METAINFO["classes"][1:]:
            touch(tmp_path, f"imagenet/{split}/{wnid}/1.{'JPEG' if split == 'train' else 'jpg'}")
    return tmp_path


def look(root: Path, *names: str):
    return run_tool("prepare_data.py", *names, "--data-root", str(root))


def test_a_complete_set_is_said_to_be_so_and_nothing_is_touched(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    done = look(root, "voc")
    assert (done.status, done.err) == (0, "")
    assert "curl" not in done.out
    assert "smaller" in done.out
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


@pytest.mark.parametrize(
    "lost", ["JPEGImages/2007_test.jpg", "Annotations/2007_test.xml", "ImageSets/Main/test.txt"]
)
def test_one_missing_file_of_a_list_is_named_with_the_commands(root, lost):
    (root / "VOCdevkit" / "VOC2007" / lost).unlink()
    findings = list(prepare_data.voc(root / "VOCdevkit"))
    assert [finding.complete for finding in findings] == [True, True, False]
    problem = findings[-1].problem
    assert problem == (
        "the list is missing" if "Sets" in lost else f"1 files are missing: VOC2007/{lost}"
    )
    done = look(root, "voc")
    assert done.status == 1
    assert f"| tar -x -C {root}" in done.out


def test_a_class_without_its_folder_is_named(root):
    done = look(root, "imagenet")
    assert done.status == 1
    first, *_ = ImageNet100.METAINFO["classes"]
    train, val = prepare_data.imagenet(root / "imagenet")
    assert (train.found, val.found) == (99, 99)
    assert train.problem == f"no folder for 1 of 100 classes: {first}"


def test_what_was_not_asked_for_by_name_may_be_absent(root):
    done = look(root)
    assert done.status == 0
    for name in prepare_data.DATASETS:
        assert (f"\n# {name}, for" in done.out) == (name != "voc")


def test_kitti_without_a_calibration_is_incomplete(tmp_path):
    drive = "2011_09_26/2011_09_26_drive_0001_sync"
    touch(tmp_path, f"{drive}/image_02/data/0.png", f"{drive}/velodyne_points/data/0.bin")
    touch(tmp_path, "depth/2011_09_26_drive_0001_sync/proj_depth/groundtruth/image_02/0.png")
    for name in prepare_data.CALIBRATION:
        drives, calibration, *others = prepare_data.kitti(tmp_path)
        assert drives.found == 1, "prepared depth maps are no drive"
        assert f"there is no 2011_09_26/{name}" in calibration.problem
        assert all(finding.complete for finding in (drives, *others))
        touch(tmp_path, f"2011_09_26/{name}")
    assert all(finding.complete for finding in prepare_data.kitti(tmp_path))


def test_a_wrong_root_and_an_unknown_set_are_one_sentence(tmp_path):
    assert "there is no folder" in look(tmp_path / "none").sentence()
    done = look(tmp_path, "cocoa")
    assert done.status == 2
    assert "no dataset 'cocoa'; there are imagenet" in done.err


def test_without_a_data_folder_everything_is_missing_and_fetched(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert prepare_data.prepare_data(["coco"]) == ["coco"]
    told = capsys.readouterr().out
    assert "coco: there is no data/coco" in told
    assert "mkdir -p data/coco" in told


def test_commands_can_be_pasted_where_the_folder_has_spaces(tmp_path, capsys):
    (tmp_path / "my data").mkdir()
    prepare_data.prepare_data(data_root=tmp_path / "my data")
    told = capsys.readouterr().out.partition("\n# ")[2]
    assert f"tar -x -C '{tmp_path}/my data'" in told
    for line in told.replace("\\\n", "").splitlines():
        if not line.startswith("#"):
            assert not any(word.endswith("/my") for word in shlex.split(line)), line


def test_commands_have_no_field_left_open():
    for name, dataset in prepare_data.DATASETS.items():
        commands = dataset.commands.format(folder="F", root="R")
        assert "F" in commands or "R" in commands, name
        assert "{folder}" not in commands
        assert "{root}" not in commands
        assert "tar -x -C R" not in commands or "mkdir -p R\n" in commands, "tar makes no folder"


@pytest.mark.parametrize(
    ("name", "archive", "inside"),
    [
        ("coco", "coco-mini", "coco-mini"),
        ("voc", "voc-mini", "voc-mini/VOCdevkit"),
        ("vocaug", "voc-mini", "voc-mini/VOCdevkit"),
    ],
)
def test_real_sets_are_complete(photos, tmp_path, name, archive, inside):
    (tmp_path / prepare_data.DATASETS[name].folder).symlink_to(photos(archive) / inside)
    done = look(tmp_path, name)
    assert done.status == 0, done.out
