"""``mmsalmask data pack`` and ``mmsalmask data stats``, as they are typed."""

import json

import numpy as np
import pytest
from PIL import Image
from running import run_tool

from mmsalmask.data import ImageFolder


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        path = tmp_path / "set" / f"class{i % 2}" / f"photo.{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 5), (10 * i, 50, 200 - i)).save(path)
    return tmp_path / "set"


def test_packing_says_what_it_did_and_the_shards_are_a_data_root(folder, tmp_path):
    (folder / "gone.png").symlink_to(tmp_path / "nowhere")
    done = run_tool("prepare_data.py", "pack", str(folder), str(tmp_path / "out"))
    assert done.status == 0, done.err
    assert "4 images, 0.0 MB in 1 shards" in done.out
    assert "1 cannot be opened, or are no image, and were left out: gone.png" in done.out
    assert "4 names had further dots" in done.out
    assert len(ImageFolder(str(tmp_path / "out"), with_label=True)) == 4
    again = run_tool("prepare_data.py", "pack", str(folder), str(tmp_path / "out"))
    assert again.sentence().endswith("out exists: name another folder for the shards, or delete it")
    away = run_tool("prepare_data.py", "pack", str(tmp_path / "away"), str(tmp_path / "more"))
    assert "away does not exist: name a folder of images" in away.sentence()


def test_shards_that_cannot_be_made_are_one_sentence(folder, tmp_path):
    (tmp_path / "file").touch()
    done = run_tool("prepare_data.py", "pack", str(folder), str(tmp_path / "file" / "out"))
    assert done.sentence().endswith("cannot be made (Not a directory): name another folder")


def test_statistics_of_a_missing_folder_name_no_option_that_is_not_there(tmp_path):
    done = run_tool("prepare_data.py", "stats", str(tmp_path / "no"))
    assert done.sentence().endswith(
        "does not exist: name a folder of images, a tar file or a Hugging Face dataset"
    )


def test_statistics_are_printed_as_a_config_takes_them(folder, tmp_path):
    (folder / "broken.png").write_text("no image")
    file = tmp_path / "stats.json"
    words = ("stats", str(folder), "--workers", "0", "--json", str(file))
    done = run_tool("prepare_data.py", *words)
    assert done.status == 2  # the green is the same everywhere
    assert "channel 1" in done.sentence()
    Image.new("RGB", (6, 5), (0, 90, 0)).save(folder / "another.png")
    done = run_tool("prepare_data.py", *words)
    assert done.status == 0, done.err
    lines = done.out.strip().splitlines()
    assert lines[-3] == f"# of 5 images; 1 cannot be read: {folder / 'broken.png'}"
    assert lines[-2] == "mean=[12.0, 58.0, 158.8]"
    assert lines[-1].startswith("std=[11.6")
    assert json.loads(file.read_text())["mean"] == [12.0, 58.0, 158.8]


def test_statistics_of_thirteen_bands(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", rng.normal(5, 2, (9, 8, 13)))
    words = ("stats", str(tmp_path), "--channels", "13", "--workers", "0")
    done = run_tool("prepare_data.py", *words)
    assert done.status == 0, done.err
    mean = json.loads(done.out.splitlines()[-2].removeprefix("mean="))
    assert len(mean) == 13
    assert np.abs(np.array(mean) - 5).max() < 1
