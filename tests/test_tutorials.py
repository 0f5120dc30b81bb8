"""The tutorials of the docs run on real photos, and end with a picture."""

import re
import runpy
import sys
import tarfile
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from photos import find_photos
from PIL import Image
from running import in_process

TUTORIALS = Path(__file__).resolve().parents[1] / "docs" / "tutorials"
# What each script is given beside the picture to write; {train}, {test} and {out} are folders.
ARGUMENTS = {
    "masks_on_photos": ["{train}"],
    "nearest_neighbours": ["{train}", "{test}", "--per-class", "25"],
    "pretrain_in_python": ["{train}", "{test}", "--work-dir", "{out}", "--epochs", "2"],
}


@pytest.fixture(scope="module")
def imagenette(tmp_path_factory) -> dict[str, Path]:
    """Folders <class>/<image> of 25 photos of each class and side of Imagenette."""
    if (archive := find_photos("imagenette_112")) is None:
        pytest.skip("imagenette_112.tar is not here; set MMSALMASK_PHOTOS to the folder it lies in")
    folder, number = tmp_path_factory.mktemp("imagenette"), Counter()
    with tarfile.open(archive) as tar:
        for member in tar:
            number[group := Path(member.name).parent] += member.isfile()
            if member.isfile() and number[group] <= 25:
                tar.extract(member, folder, filter="data")
    return {"train": folder / "imagenette_112/train", "test": folder / "imagenette_112/val"}


@pytest.mark.parametrize("script", sorted(path.stem for path in TUTORIALS.glob("*.py")))
def test_a_tutorial_runs_and_ends_with_a_picture(script, imagenette, tmp_path, monkeypatch):
    picture = tmp_path / "picture.png"
    folders = {**imagenette, "out": tmp_path / "run"}
    words = [word.format(**folders) for word in ARGUMENTS[script]]
    file = str(TUTORIALS / f"{script}.py")
    monkeypatch.setattr(sys, "argv", [file, *words, "-o", str(picture)])
    outcome = in_process(monkeypatch, partial(runpy.run_path, file, run_name="__main__"))
    assert outcome.status == 0, outcome.err
    assert outcome.out.splitlines()[-1] == str(picture)
    with Image.open(picture) as image:
        assert len(image.convert("RGB").getcolors(1 << 24)) > 1000
    if script == "nearest_neighbours":
        told = re.findall(r"(\w.*): kNN accuracy ([\d.]+) %", outcome.out)
        accuracy = {name: float(value) for name, value in told}
        assert list(accuracy) == [
            "untrained",
            "trained, plain photos",
            "trained, filtered photos",
        ]
        assert accuracy["untrained"] + 10 < accuracy["trained, filtered photos"]
    if script == "pretrain_in_python":
        told = re.findall(r"^(\w+): kNN [\d.]+ %, linear [\d.]+ %$", outcome.out, re.MULTILINE)
        assert told == ["untrained", "pretrained"]


@pytest.mark.parametrize("script", sorted(path.stem for path in TUTORIALS.glob("*.py")))
def test_a_tutorial_has_a_page_that_shows_all_of_its_sections_and_its_picture(script):
    text, page = (TUTORIALS / f"{script}.py").read_text(), (TUTORIALS / f"{script}.md").read_text()
    sections = re.findall(r"^# \d\.", text, re.MULTILINE)
    assert len(sections) >= 3
    for section in sections[:-1]:
        assert f':start-after: "{section}"' in page, section
    (picture,) = re.findall(r"!\[.+\]\((.+)\)", page)
    assert (TUTORIALS / picture).is_file()
