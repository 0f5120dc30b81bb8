import hashlib
import json
import time

import numpy as np
import pytest
import torch
from mmpretrain.models import ResNet
from PIL import Image

from mmsalmask.data.demo import DEMO_CLASSES, draw_demo_set, draw_picture
from mmsalmask.errors import InputError
from mmsalmask.evaluation import accuracy, knn_classify


def digests(root):
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def demo_set(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    draw_demo_set(root, images_per_class=60, size=64)
    return root


def load(root, split):
    pictures, masks, labels = [], [], []
    for label, name in enumerate(DEMO_CLASSES):
        for path in sorted((root / split / name).iterdir()):
            pictures.append(np.asarray(Image.open(path)))
            masks.append(np.asarray(Image.open(root / "masks" / split / name / f"{path.stem}.png")))
            labels.append(label)
    return np.stack(pictures), np.stack(masks), np.array(labels)


def test_the_set_has_every_picture_and_mask_of_every_class(demo_set):
    assert sorted(path.name for path in demo_set.iterdir()) == [
        "manifest.json",
        "masks",
        "test",
        "train",
    ]
    for split, count in (("train", 60), ("test", 15)):
        pictures, masks, labels = load(demo_set, split)
        assert pictures.shape == (10 * count, 64, 64, 3)
        assert masks.shape == (10 * count, 64, 64)
        assert np.bincount(labels).tolist() == [count] * 10
        assert np.unique(masks).tolist() == [0, 255]


def test_no_picture_occurs_twice(demo_set):
    pictures = [digest for path, digest in digests(demo_set).items() if path.endswith(".jpg")]
    assert len(pictures) == len(set(pictures)) == 750


def test_the_same_seed_draws_the_same_files_and_another_seed_others(tmp_path):
    for folder, seed in (("first", 3), ("second", 3), ("other", 4)):
        draw_demo_set(tmp_path / folder, images_per_class=4, classes=("star", "comb"), seed=seed)
    first, second, other = (digests(tmp_path / name) for name in ("first", "second", "other"))
    assert first == second
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)


def test_a_picture_does_not_depend_on_what_else_is_drawn(tmp_path):
    draw_demo_set(tmp_path / "few", images_per_class=4, classes=("comb",))
    draw_demo_set(tmp_path / "more", images_per_class=5, classes=("ring", "comb"))
    few, more = digests(tmp_path / "few"), digests(tmp_path / "more")
    few.pop("manifest.json")
    assert few.items() <= more.items()


def test_drawing_does_not_touch_the_global_random_state(tmp_path):
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    draw_demo_set(tmp_path, images_per_class=1, classes=("disk",))
    assert np.random.random() == expected


def test_a_complete_set_is_kept_and_another_one_replaced(tmp_path):
    draw_demo_set(tmp_path, images_per_class=4, classes=("disk", "dots"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    time.sleep(0.02)
    draw_demo_set(tmp_path, images_per_class=4, classes=("disk", "dots"))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    draw_demo_set(tmp_path, images_per_class=2, classes=("bars",), size=32)
    pictures = sorted(tmp_path.glob("t*/*/*.jpg"))
    assert [path.relative_to(tmp_path).as_posix() for path in pictures] == [
        "test/bars/0000.jpg",
        "train/bars/0000.jpg",
        "train/bars/0001.jpg",
    ]
    assert all(Image.open(path).size == (32, 32) for path in pictures)
    assert len(list((tmp_path / "masks").rglob("*.png"))) == 3


def test_a_set_with_a_missing_file_or_an_interrupted_one_is_drawn_again(tmp_path):
    draw_demo_set(tmp_path, images_per_class=2, classes=("disk",))
    whole = digests(tmp_path)
    (tmp_path / "masks/train/disk/0001.png").unlink()
    draw_demo_set(tmp_path, images_per_class=2, classes=("disk",))
    assert digests(tmp_path) == whole
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    (tmp_path / "train/disk/0001.jpg").write_bytes(b"half")
    draw_demo_set(tmp_path, images_per_class=2, classes=("disk",))
    assert digests(tmp_path) == whole


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "mine.jpg").write_bytes(b"precious")
    with pytest.raises(InputError, match="other than a demo set"):
        draw_demo_set(tmp_path, images_per_class=1)
    assert (tmp_path / "train" / "mine.jpg").read_bytes() == b"precious"
    with pytest.raises(InputError, match="is a file"):
        draw_demo_set(tmp_path / "train" / "mine.jpg", images_per_class=1)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"images_per_class": 0}, "images_per_class is 0"),
        ({"size": 8}, "8 pixels"),
        ({"seed": -1}, "seed is -1"),
        ({"classes": ()}, "at least one class"),
        ({"classes": ("disk", "disk")}, "each named once"),
        ({"classes": ("cresent",)}, "nearest: 'crescent'"),
    ],
)
def test_arguments_that_cannot_work_are_refused(tmp_path, change, sentence):
    with pytest.raises(InputError, match=sentence):
        draw_demo_set(tmp_path / "set", **change)
    assert not (tmp_path / "set").exists()


def test_masks_mark_the_object_by_colour(demo_set):
    pictures, masks, _ = load(demo_set, "test")
    inside = masks > 0
    areas = inside.mean(axis=(1, 2))
    assert areas.min() > 0.04
    assert areas.max() < 0.6
    # An object drawn beside its mask would leave both sides alike; shifted, the mask must do worse.
    gaps, shifted_gaps = [], []
    for picture, mask in zip(pictures.astype(float), inside, strict=True):
        for found, where in ((gaps, mask), (shifted_gaps, np.roll(mask, (16, 16), axis=(0, 1)))):
            found.append(np.linalg.norm(picture[where].mean(0) - picture[~where].mean(0)))
    assert np.quantile(gaps, 0.02) > 50
    assert np.mean(np.array(gaps) > np.array(shifted_gaps)) > 0.98


def test_a_mask_has_the_shape_of_its_class():
    # A ring is empty in the middle, a disk is not.
    for name, filled in (("disk", True), ("ring", False)):
        _, mask = draw_picture(name, 96, (0, 0, 0))
        rows, columns = np.nonzero(np.asarray(mask))
        assert (mask.getpixel((int(columns.mean()), int(rows.mean()))) > 0) == filled


def test_colours_say_nothing_about_the_class(demo_set):
    predicted, labels = _nearest_neighbours(demo_set, lambda x: x.float().mean(dim=(2, 3)))
    assert accuracy(predicted, labels)[0] < 25


def test_untrained_features_leave_room_to_learn(demo_set):
    predicted, labels = _nearest_neighbours(demo_set, lambda x: x.float().flatten(1))
    assert accuracy(predicted, labels)[0] < 45
    torch.manual_seed(0)
    backbone = ResNet(18)
    backbone.eval()
    with torch.no_grad():
        predicted, labels = _nearest_neighbours(
            demo_set, lambda x: backbone((x.float() - 120) / 58)[-1].mean(dim=(2, 3))
        )
    assert accuracy(predicted, labels)[0] < 45


def _nearest_neighbours(root, features):
    (bank, _, bank_labels), (queries, _, labels) = load(root, "train"), load(root, "test")
    found = []
    for pictures in (bank, queries):
        feature = features(torch.from_numpy(pictures).permute(0, 3, 1, 2))
        found.append(feature - feature.mean(0))
    predicted = knn_classify(found[0], torch.from_numpy(bank_labels), found[1])
    return predicted, torch.from_numpy(labels)
