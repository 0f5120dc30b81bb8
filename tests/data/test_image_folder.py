"""Folders as they are found in the wild: damaged files, every kind of image, links, odd names."""

import copy
import logging
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import ConcatDataset, RepeatDataset
from PIL import Image
from storing import KINDS, stored
from torch.utils.data import DataLoader

from mmsalmask.data import BrokenImage, ImageFolder, ImageNet100, LoadImage, PerClassSplit
from mmsalmask.data.image_folder import image_folders
from mmsalmask.data.imagenet100 import _IDS
from mmsalmask.errors import InputError

LOAD = [{"type": "mmsalmask.LoadImage"}]
HOSTILE = ["cut.jpg", "nothing.png", "text.jpg", "vanished.jpg", "loops.jpg"]


def photo(side: int = 24, seed: int = 0) -> np.ndarray:
    """(side, side, 3) uint8 RGB: a smooth picture, which JPEG hardly changes."""
    y, x = np.mgrid[0:side, 0:side] / side
    return (np.stack([x, y, (x + y + seed % 7 / 7) / 3], -1) * 255).astype(np.uint8)


def save_photos(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:04d}.png" for i in range(count)]
    for i, path in enumerate(paths):
        Image.fromarray(np.full((8, 8, 3), i, dtype=np.uint8)).save(path)
    return paths


def break_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch):
    # mmengine collects garbage whenever a dataset is made: half a second each among these tests.
    monkeypatch.setattr("gc.collect", lambda: 0)


@pytest.fixture
def hostile(tmp_path) -> Path:
    """A folder of good images in every mode and of files that are none."""
    rgb = Image.fromarray(photo())
    good = tmp_path / "good" / "Bäume 树"
    good.mkdir(parents=True)
    rgb.save(good / "plain.PNG")
    rgb.convert("P").save(good / "palette.png")
    rgb.convert("CMYK").save(good / "ünïcode 猫.jpg", quality=98)
    rgb.save(good / "truly_a_png.jpg", format="PNG")
    rgb.resize((1, 1)).save(good / "pixel.jpeg")
    save_photos(tmp_path / "more", 20)
    broken = tmp_path / "broken"
    broken.mkdir()
    rgb.resize((200, 200)).save(broken / "cut.jpg")
    cut = (broken / "cut.jpg").read_bytes()
    (broken / "cut.jpg").write_bytes(cut[: len(cut) // 2])
    (broken / "nothing.png").touch()
    (broken / "text.jpg").write_text("this is no image")
    (broken / "vanished.jpg").symlink_to(broken / "nowhere.jpg")
    (broken / "loops.jpg").symlink_to(broken / "loops.jpg")
    (broken / "loop").symlink_to(tmp_path)
    (broken / "notes.txt").write_text("not listed")
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / ".thumbnails" / "small.jpg").write_text("not listed")
    (good / "._plain.PNG").write_text("not listed")
    os.mkfifo(broken / "pipe.jpg")
    return tmp_path


@pytest.fixture(params=KINDS)
def keep(request):
    """Makes a data root of a folder's images; a test that takes it runs for every storage."""
    return lambda folder: stored(folder, request.param)


def names_of(paths) -> list[str]:
    return [Path(path).name for path in paths]


def collate(items):
    return items


def load_all(dataset, workers: int, **options) -> list[dict]:
    loader = DataLoader(dataset, batch_size=4, num_workers=workers, collate_fn=collate, **options)
    return [item for batch in loader for item in batch]


def test_every_image_is_listed_once_sorted_and_nothing_else(hostile):
    dataset = ImageFolder(str(hostile), LOAD)
    listed = [Path(dataset.get_data_info(i)["img_path"]) for i in range(len(dataset))]
    names = [path.name for path in listed]
    assert sorted(names) == sorted(
        [*HOSTILE, *(f"{i:04d}.png" for i in range(20))]
        + ["plain.PNG", "palette.png", "ünïcode 猫.jpg", "truly_a_png.jpg", "pixel.jpeg"]
    )
    assert listed == sorted(listed, key=str)
    assert "gt_label" not in dataset[0]


def test_the_order_does_not_depend_on_that_of_the_file_system(tmp_path, monkeypatch):
    save_photos(tmp_path / "b", 3)
    save_photos(tmp_path / "a", 3)
    (tmp_path / "c").symlink_to(tmp_path / "a")
    (tmp_path / "0").symlink_to(tmp_path / "b")

    def listing():
        dataset = ImageFolder(str(tmp_path))
        return [dataset.get_data_info(i)["img_path"] for i in range(len(dataset))]

    first = listing()
    scandir = os.scandir

    class Backwards:
        def __init__(self, path):
            with scandir(path) as entries:
                self.entries = list(entries)[::-1]

        def __enter__(self):
            return self.entries

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    assert listing() == first
    assert len(first) == 6


@pytest.mark.parametrize(
    ("kind", "workers", "context"),
    [
        *((kind, *how) for kind in KINDS for how in ((0, None), (2, "fork"))),
        ("folder", 1, "spawn"),
        ("shards", 1, "spawn"),
    ],
)
def test_broken_images_are_replaced_and_their_marks_reach_the_main_process(
    hostile, kind, workers, context
):
    dataset = ImageFolder(stored(hostile, kind), LOAD)
    items = load_all(dataset, workers, multiprocessing_context=context)
    assert len(items) == len(dataset)
    # A link that leads nowhere can be listed, not packed.
    broken = HOSTILE if kind == "folder" else HOSTILE[:3]
    assert sorted(names_of(dataset.broken_files())) == sorted(broken)
    for item in items:
        name = Path(item["img_path"]).name
        assert name not in HOSTILE
        if name[:4].isdigit():
            assert (item["img"] == int(name[:4])).all()
    # Broken ones were replaced by different images: not always by the same neighbour.
    used = [item["img_path"] for item in items]
    repeated = {path for path in used if used.count(path) > 1}
    assert len(repeated) == len(broken)


def test_marks_cross_persistent_workers_and_epochs(tmp_path):
    paths = save_photos(tmp_path, 24)
    dataset = ImageFolder(str(tmp_path), LOAD)
    loader = DataLoader(
        dataset, batch_size=4, num_workers=2, collate_fn=collate, persistent_workers=True
    )
    first = [item["img_path"] for batch in loader for item in batch]
    assert first == [str(path) for path in paths]
    break_file(paths[3])
    second = [item["img_path"] for batch in loader for item in batch]
    assert dataset.broken_files() == [str(paths[3])]
    assert second[3] != str(paths[3])
    assert second[:3] + second[4:] == first[:3] + first[4:]


def test_the_replacement_depends_on_the_index_alone(tmp_path, keep):
    for path in save_photos(tmp_path, 30)[5:11]:
        break_file(path)
    root, runs = keep(tmp_path), []
    for seed, order in ((0, range(30)), (1, reversed(range(30)))):
        np.random.seed(seed)
        torch.manual_seed(seed)
        dataset = ImageFolder(root, LOAD)
        states = np.random.get_state()[2], torch.get_rng_state()
        runs.append({i: dataset[i]["img_path"] for i in order})
        assert dataset.broken.nonzero().flatten().tolist() == [5, 6, 7, 8, 9, 10]
        assert np.random.get_state()[2] == states[0]
        assert torch.equal(torch.get_rng_state(), states[1])
    assert runs[0] == runs[1]


def test_a_run_of_broken_files_is_replaced_by_different_images(tmp_path, keep):
    for path in save_photos(tmp_path, 200)[50:70]:
        break_file(path)
    dataset = ImageFolder(keep(tmp_path), LOAD)
    replacements = [dataset[i]["img_path"] for i in range(50, 70)]
    assert len(set(replacements)) == 20


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 10, 97, 100])
def test_every_image_is_tried_once_before_giving_up(tmp_path, size):
    save_photos(tmp_path, size)
    dataset = ImageFolder(str(tmp_path), LOAD)
    for index in {0, size // 2, size - 1}:
        candidates = list(dataset._candidates(index))
        assert candidates[0] == index
        assert sorted(candidates) == list(range(size))


def test_a_marked_image_is_not_tried_again(tmp_path):
    paths = save_photos(tmp_path, 5)
    whole = paths[2].read_bytes()
    break_file(paths[2])
    dataset = ImageFolder(str(tmp_path), LOAD)
    replacement = dataset[2]["img_path"]
    paths[2].write_bytes(whole)
    assert dataset[2]["img_path"] == replacement != str(paths[2])


def test_nothing_readable_is_an_error_and_no_endless_search(tmp_path, keep):
    for path in save_photos(tmp_path, 4):
        break_file(path)
    dataset = ImageFolder(keep(tmp_path), LOAD)
    with pytest.raises(InputError, match=r"all tried instead of it cannot be read"):
        dataset[1]
    with pytest.raises(InputError, match=r"all were found broken before"):
        dataset[1]
    dataset.max_refetch = 1
    assert len(list(dataset._candidates(0))) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_in_evaluation_is_an_error(tmp_path, keep, workers):
    break_file(save_photos(tmp_path, 4)[2])
    dataset = ImageFolder(keep(tmp_path), LOAD, test_mode=True)
    assert dataset[1]["img"][0, 0, 0] == 1
    with pytest.raises(InputError, match=r"0002.png cannot be read .* would change the result"):
        load_all(dataset, workers)
    with pytest.raises(InputError, match=r"0002.png cannot be read"):
        dataset[2]


def test_only_broken_images_are_forgiven(tmp_path):
    save_photos(tmp_path, 3)

    def buggy(results):
        raise ValueError("a mistake in the pipeline")

    dataset = ImageFolder(str(tmp_path), [*LOAD, buggy])
    with pytest.raises(ValueError, match="a mistake in the pipeline"):
        dataset[0]
    assert dataset.broken_files() == []


def test_a_pipeline_may_refuse_an_image_without_breaking_it(tmp_path):
    save_photos(tmp_path, 5)
    dataset = ImageFolder(str(tmp_path), [*LOAD, lambda r: r if r["img"].max() != 2 else None])
    assert dataset[2]["img"].max() != 2
    assert dataset.broken_files() == []


def test_an_index_outside_is_an_index_error_and_a_negative_one_counts_from_the_end(tmp_path):
    paths = save_photos(tmp_path, 3)
    dataset = ImageFolder(str(tmp_path), LOAD)
    assert dataset[-1]["img_path"] == str(paths[-1])
    with pytest.raises(IndexError):
        dataset[3]


def test_subsets_have_marks_of_their_own(tmp_path, keep):
    break_file(save_photos(tmp_path, 10)[4])
    dataset = ImageFolder(root := keep(tmp_path), LOAD)
    dataset[4]
    subset = dataset.get_subset([4, 5, 6])
    assert subset.broken_files() == []
    assert subset.broken.is_shared()
    subset[0]
    assert names_of(subset.broken_files()) == ["0004.png"]
    assert names_of(dataset.broken_files()) == ["0004.png"]
    assert dataset.get_subset(-2)[1]["img"][0, 0, 0] == 9
    dataset.get_subset_(3)
    assert len(dataset) == len(dataset.broken) == 3
    assert len(ImageFolder(root, LOAD, indices=6)) == 6
    last = ImageFolder(root, LOAD, indices=[7, 9])[1]
    assert (last["img"][0, 0, 0], last["sample_idx"]) == (9, 9)


def test_a_copy_has_shared_marks_of_its_own(tmp_path, keep):
    break_file(save_photos(tmp_path, 6)[2])
    dataset = ImageFolder(root := keep(tmp_path), LOAD)
    for twin in (copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))):
        load_all(twin, workers=1)
        assert names_of(twin.broken_files()) == ["0002.png"]
        assert dataset.broken_files() == []
    lazy = copy.deepcopy(ImageFolder(root, LOAD, lazy_init=True))
    assert len(lazy) == 6


def test_the_folder_works_inside_wrappers(tmp_path, keep):
    break_file(save_photos(tmp_path, 4)[1])
    folder = ImageFolder(keep(tmp_path), LOAD)
    assert len(load_all(RepeatDataset(folder, times=2), 2)) == 8
    assert len(load_all(ConcatDataset([folder, folder]), 0)) == 8
    assert len(folder.broken_files()) == 1


# Labels


def test_classes_are_the_sorted_subfolders(tmp_path, keep):
    for name, count in (("zebra", 2), ("Äpfel", 1), ("cat", 3)):
        save_photos(tmp_path / name / "deeper", count)
    (tmp_path / ".cache").mkdir()
    dataset = ImageFolder(keep(tmp_path), LOAD, with_label=True)
    assert dataset.metainfo["classes"] == ("cat", "zebra", "Äpfel")
    assert [int(dataset[i]["img"][0, 0, 0]) for i in range(6)] == [0, 1, 2, 0, 1, 0]
    assert [dataset[i]["gt_label"] for i in range(6)] == [0, 0, 0, 1, 1, 2]
    assert [dataset.get_cat_ids(i) for i in (0, 5)] == [[0], [2]]
    assert list(dataset.get_gt_labels()) == [0, 0, 0, 1, 1, 2]


def test_a_class_may_be_a_link_to_another_folder(tmp_path):
    save_photos(tmp_path / "elsewhere", 2)
    save_photos(tmp_path / "set" / "a", 1)
    (tmp_path / "set" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "c").symlink_to(tmp_path / "elsewhere")
    dataset = ImageFolder(str(tmp_path / "set"), LOAD, with_label=True)
    assert list(dataset.get_gt_labels()) == [0, 1, 1, 2, 2]


def folder_of(tmp_path, *names):
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return str(tmp_path)


@pytest.mark.parametrize(
    ("names", "options", "sentence"),
    [
        ((), {}, r"is empty: set data_root.*--cfg-options data_root=/path/to/images"),
        (
            ("a.txt", "deep/b.txt", "c.JSON", "noext"),
            {},
            r"no images: looked for .*\.jpg .* found 2 \.txt, 1 \.json, 1 without extension inst",
        ),
        (("a.png",), {"extensions": [".jpg"]}, r"looked for \.jpg and found 1 \.png instead"),
        ((), {"with_label": True}, r"has no class subfolders with images"),
        (("a/x.txt",), {"with_label": True}, r"has no class subfolders with images"),
        (("a/x.png", "b/y.txt"), {"with_label": True}, r"^b below .* hold no images"),
        (("a/x.png", "y.png"), {"with_label": True}, r"y\.png lie in .* and have no class"),
        (("a.png",), {"extensions": ".png"}, r"extensions must be a list"),
        (("a.png",), {"extensions": ["png"]}, r"extensions must be a list"),
    ],
)
def test_a_folder_that_cannot_work_is_one_clear_sentence(tmp_path, names, options, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        ImageFolder(folder_of(tmp_path, *names), LOAD, **options)
    assert "\n" not in str(caught.value)


def test_what_is_found_used_and_skipped_is_told_by_kind(tmp_path, caplog):
    logger = logging.getLogger("told")
    root = folder_of(tmp_path, "a/x.png", "a/y.jpg", "b/z.PNG", "b/v.heic", "a/w.HEIC", "a/n.txt")
    told = f"{root}: found 3 images, uses "
    skipped = ", skips 2 .heic, 1 .txt: not a supported image format"
    caplog.set_level(logging.INFO, "told")
    for options in ({}, {"with_label": True}):
        ImageFolder(root, LOAD, **options).tell(logger)
        assert caplog.record_tuples.pop() == ("told", logging.WARNING, f"{told}3{skipped}")
    for name in ("b/v.heic", "a/w.HEIC", "a/n.txt"):
        (tmp_path / name).unlink()
    (folder,) = image_folders(RepeatDataset(ImageFolder(root, LOAD, indices=2), 2))
    folder.tell(logger)
    assert caplog.record_tuples.pop() == ("told", logging.INFO, f"{told}2")
    folder_of(tmp_path, "b/q.png")
    PerClassSplit(root, "train", train_per_class=1).tell(logger)
    assert caplog.messages.pop() == f"{root}: found 4 images, uses 2"


def test_a_folder_that_is_missing_a_file_or_not_given_is_one_clear_sentence(tmp_path):
    with pytest.raises(InputError, match=r"nowhere does not exist: set data_root"):
        ImageFolder(str(tmp_path / "nowhere"))
    (tmp_path / "file.jpg").touch()
    with pytest.raises(InputError, match=r"file\.jpg is a file, not a folder"):
        ImageFolder(str(tmp_path / "file.jpg"))
    with pytest.raises(InputError, match=r"no image folder is given: set data_root"):
        ImageFolder("")
    with pytest.raises(InputError, match=r"no image folder is given"):
        ImageFolder(None)


def test_a_subfolder_that_cannot_be_listed_is_an_error_not_a_loss(tmp_path, monkeypatch):
    save_photos(tmp_path / "open", 1)
    save_photos(tmp_path / "closed", 1)
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"closed cannot be read \(Permission denied\)"):
        ImageFolder(str(tmp_path))


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    save_photos(tmp_path / "images", 2)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(ImageFolder("~/images")) == 2


# ImageNet-100


@pytest.fixture
def imagenet(tmp_path) -> Path:
    ids = _IDS.read_text().split()
    for split in ("train", "val"):
        for i, name in enumerate([*ids, "n00000001", "n99999999"]):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(folder / f"{name}_1.PNG")
            (folder / f"{name}_1.PNG").rename(folder / f"{name}_1.JPEG")
    return tmp_path


def test_imagenet100_takes_the_hundred_folders_and_labels_them_in_sorted_order(imagenet, keep):
    (imagenet / "train").rename(imagenet / "original")
    root = keep(imagenet / "original")
    (imagenet / "train").symlink_to(root)
    dataset = ImageNet100(str(imagenet), "train", LOAD)
    ids = _IDS.read_text().split()
    assert len(ids) == len(set(ids)) == len(dataset) == 100
    assert dataset.metainfo["classes"] == tuple(sorted(ids))
    for i in range(100):
        item = dataset[i]
        assert Path(item["img_path"]).stem == sorted(ids)[item["gt_label"]] + "_1"
        assert "/train/" in item["img_path"]
    assert sorted(dataset.get_gt_labels()) == list(range(100))
    assert not dataset.test_mode


def test_imagenet100_val_is_an_evaluation_and_pretraining_may_leave_labels_out(imagenet):
    val = ImageNet100(str(imagenet), "val", LOAD)
    assert val.test_mode
    assert "/val/" in val[0]["img_path"]
    unlabelled = ImageNet100(str(imagenet), pipeline=LOAD, with_label=False)
    assert len(unlabelled) == 100
    assert "gt_label" not in unlabelled[0]


def test_imagenet100_lists_missing_classes(imagenet):
    ids = sorted(_IDS.read_text().split())
    for name in ids[10:17]:
        shutil.rmtree(imagenet / "train" / name)
    sentence = rf"7 of the 100 class folders are missing in .*train \({ids[10]}, .* and 2 more\)"
    with pytest.raises(InputError, match=sentence):
        ImageNet100(str(imagenet))
    with pytest.raises(InputError, match=r"split must be 'train' or 'val', got 'test'"):
        ImageNet100(str(imagenet), "test")
    with pytest.raises(InputError, match=r"does not exist: set data_root"):
        ImageNet100(str(imagenet / "nowhere"))
    with pytest.raises(InputError, match=r"no image folder is given"):
        ImageNet100("")
    shutil.rmtree(imagenet / "val" / ids[3])
    (imagenet / "val" / ids[3]).mkdir()
    with pytest.raises(InputError, match=rf"{ids[3]} below .*val hold no images"):
        ImageNet100(str(imagenet), "val")


# BrokenImage


def test_a_broken_image_keeps_path_and_reason_through_pickling():
    error = pickle.loads(pickle.dumps(BrokenImage("a/b.jpg", "truncated")))
    assert (error.path, error.reason, str(error)) == ("a/b.jpg", "truncated", "a/b.jpg: truncated")
    assert isinstance(error, OSError)


class Unforgiving:
    def __init__(self, path):
        self.path = path

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return LoadImage()({"img_path": self.path})


def test_a_broken_image_leaves_a_worker_as_what_it_is(tmp_path):
    path = tmp_path / "x.jpg"
    path.write_text("no image")
    with pytest.raises(BrokenImage, match=r"x\.jpg: not an image of a known format"):
        load_all(Unforgiving(str(path)), 1)
