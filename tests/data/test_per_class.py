from pathlib import Path
from threading import Barrier, Thread, get_ident

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmsalmask.data import PerClassSplit, link_split, per_class, split_per_class
from mmsalmask.errors import InputError
from mmsalmask.registry import DATASETS


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=40), st.integers(0, 9), st.integers(0, 2**31 - 1))
def test_each_class_gives_its_number_and_every_entry_is_on_one_side(labels, count, seed):
    drawn, others = split_per_class(labels, count, seed)
    assert sorted(drawn + others) == list(range(len(labels)))
    assert (drawn, others) == (sorted(drawn), sorted(others))
    for label in set(labels):
        assert sum(labels[i] == label for i in drawn) == min(count, labels.count(label))
    assert split_per_class(labels, count, seed) == (drawn, others)


def test_a_number_for_each_class_and_a_seed_that_matters():
    labels = [0, 1, 2] * 10
    drawn, _ = split_per_class(labels, [1, 0, 7], seed=0)
    assert [sum(labels[i] == label for i in drawn) for label in range(3)] == [1, 0, 7]
    assert len({tuple(split_per_class(labels, 5, seed)[0]) for seed in range(5)}) == 5


def test_every_entry_of_a_class_is_as_likely_as_another():
    draws = np.zeros(6)
    for seed in range(600):
        draws[split_per_class([0] * 6, 2, seed)[0]] += 1
    assert np.abs(draws / 600 - 2 / 6).max() < 0.08  # four standard deviations


def test_a_split_stays_the_same_for_good():
    assert split_per_class([0, 1, 1, 0, 0, 1, 0, 1], 2, seed=0)[0] == [1, 2, 3, 6]


@pytest.fixture
def folder(tmp_path):
    for name, count in (("cat", 5), ("dog", 7)):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.new("RGB", (4, 4)).save(tmp_path / name / f"{i}.png")
    return str(tmp_path)


def test_both_sides_share_nothing_and_lack_nothing(folder):
    train, test = (
        DATASETS.build(
            dict(
                type="mmsalmask.PerClassSplit",
                data_root=folder,
                split=split,
                train_per_class=3,
                pipeline=[],
            )
        )
        for split in ("train", "test")
    )
    assert train.metainfo["classes"] == test.metainfo["classes"] == ("cat", "dog")
    assert list(train.get_gt_labels()) == [0] * 3 + [1] * 3
    assert list(test.get_gt_labels()) == [0] * 2 + [1] * 4
    paths = [side[i]["img_path"] for side in (train, test) for i in range(len(side))]
    assert len(set(paths)) == 12
    assert (train.test_mode, test.test_mode) == (False, True)
    other = PerClassSplit(folder, "train", 3, seed=1)
    assert {other[i]["img_path"] for i in range(6)} != set(paths[:6])


def test_what_cannot_be_split_is_one_sentence(folder):
    for count in (0, 5):
        with pytest.raises(InputError, match=rf"^{count} training images .* class 'cat' .* has 5"):
            PerClassSplit(folder, "test", count)
    with pytest.raises(InputError, match="split must be 'train' or 'test', got 'val'"):
        PerClassSplit(folder, "val")


def test_what_an_unfinished_split_has_left_is_on_neither_side(folder, tmp_path_factory):
    def choose(count):
        return lambda labels: split_per_class(labels, count, seed=0)

    out = tmp_path_factory.mktemp("split")
    for number in (4, 2):
        (out / "split.json").unlink(missing_ok=True)  # as if killed before it was written
        sides = link_split(Path(folder), out, ("train", "test"), choose(number), {"n": number})
    train, test = ({link.resolve() for link in side.rglob("*.png")} for side in sides)
    assert len(train) == 4
    assert len(train | test) == 12
    assert not train & test
    (out / "split.json").rename(out / "own.json")
    with pytest.raises(InputError, match="holds other files: choose another --out"):
        link_split(Path(folder), out, ("train", "test"), choose(3), {"n": 3})


def test_two_processes_that_make_one_split_have_the_same(folder, tmp_path_factory, monkeypatch):
    out = tmp_path_factory.mktemp("split") / "photos"
    both, finished = Barrier(2), []

    def choose(labels):
        both.wait(20)  # both have found nothing there
        return split_per_class(labels, 2, seed=0)

    def make():
        finished.append(link_split(Path(folder), out, ("train", "test"), choose, {}))

    monkeypatch.setattr(per_class.os, "getpid", get_ident)
    threads = [Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert finished == [(out / "train", out / "test")] * 2
    assert [len(list(side.rglob("*.png"))) for side in finished[0]] == [4, 8]
    assert [path.name for path in out.parent.iterdir()] == ["photos"]


def test_caltech101_has_3060_training_images(photos):
    root = photos("caltech101_112")
    (root,) = [p for p in (root, *root.iterdir()) if (p / "accordion").is_dir()]
    train, test = (PerClassSplit(str(root), split) for split in ("train", "test"))
    assert len(train.metainfo["classes"]) == 102
    assert (len(train), len(test)) == (3060, 6084)
    assert (np.bincount(train.get_gt_labels()) == 30).all()
