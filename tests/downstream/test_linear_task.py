"""Linear evaluation as a downstream task: its folders, and its full schedule."""

import shutil
from pathlib import Path

import pytest
from drawn import draw, draw_classes, setting
from scipy.io import savemat

from mmsalmask.__main__ import COMMANDS
from mmsalmask.commands.transfer import plan
from mmsalmask.data import ImageNet100
from mmsalmask.downstream.labelled import FLOWERS102, IMAGENET
from mmsalmask.downstream.tasks import linear
from mmsalmask.downstream.tasks.linear import Linear
from mmsalmask.errors import InputError


def draw_example(data_root: Path) -> None:
    draw_classes(data_root / "caltech101")


def small(dataset, root: Path) -> Linear:
    return Linear(dataset, setting(root, schedule="small", train_per_class=2))


def test_imagenet100_and_flowers102_are_linked_as_folders_of_classes(tmp_path):
    for split in ("train", "val"):
        for wnid in (*ImageNet100.METAINFO["classes"], "n00000000"):
            draw(tmp_path / "imagenet" / split / wnid / f"{wnid}.JPEG", (9, 9, 9))
    task = small(IMAGENET, tmp_path)
    links = task.folder / "links"
    assert task.check() == {"train_images": 100, "test_images": 100}
    assert task.words == [f"--{side}={links / side}" for side in ("train", "test")]
    assert task.shown == links / "test"
    for split in ("train", "val"):
        (tmp_path / "imagenet" / split / "n02869837").rename(tmp_path / split)
    with pytest.raises(InputError, match=r"there is no .*n02869837: complete the data"):
        task.check()

    flowers = tmp_path / "flowers102"
    for i in range(1, 7):
        draw(flowers / "jpg" / f"image_{i:05d}.jpg", (9, 9, 9))
    savemat(flowers / "imagelabels.mat", {"labels": [1, 2, 1, 2, 1, 2]})
    savemat(flowers / "setid.mat", {"trnid": [1, 2], "valid": [3, 4], "tstid": [5, 6]})
    for _ in range(2):  # the second time over the links of the first
        assert small(FLOWERS102, tmp_path).check() == {"train_images": 4, "test_images": 2}
    image = flowers / "jpg" / "image_00006.jpg"
    image.rename(tmp_path / "lost.jpg")
    with pytest.raises(InputError, match=r"there is no .*image_00006\.jpg: complete the data"):
        small(FLOWERS102, tmp_path).check()
    first = tmp_path / "out" / "linear-flowers102" / "links" / "train" / "000"
    assert sorted(path.name for path in first.iterdir()) == ["image_00001.jpg", "image_00003.jpg"]
    (flowers / "setid.mat").unlink()
    with pytest.raises(InputError, match=r"there is no .*setid\.mat"):
        small(FLOWERS102, tmp_path).check()


def test_a_folder_that_was_deleted_as_told_does_not_bring_back_its_data(tmp_path):
    for root in ("old", "new"):
        for split in ("train", "val"):
            for wnid in ImageNet100.METAINFO["classes"]:
                draw(tmp_path / root / split / wnid / "1.JPEG", (9, 9, 9))
        where = {"imagenet": tmp_path / root}
        task = Linear(IMAGENET, setting(tmp_path, schedule="small", data=where))
        task.check()
        image = Path(task.sets[0].get_data_info(0)["img_path"])
        assert image.resolve().is_relative_to(tmp_path / root)
        shutil.rmtree(task.folder)


def test_the_full_schedule_trains_the_linear_recipe(tmp_path, monkeypatch):
    assert {"train", "test"} <= set(COMMANDS)
    draw_example(tmp_path)
    jobs, skipped = plan(setting(tmp_path, train_per_class=2), ["linear"], tmp_path)
    assert list(jobs) == ["linear-caltech101"]
    assert len(skipped) == 2
    task = jobs["linear-caltech101"]
    assert task.config.train_dataloader.dataset.train_per_class == 2
    assert task.config.test_dataloader.dataset.train_per_class == 2
    assert task.config.optim_wrapper.optimizer.lr == 30
    assert task.counts["train_images"] == 6
    assert task.counts["test_images"] == 18
    figures = {"accuracy/top1": 50.0, "mean_per_class/recall": 40.0}
    trained = []

    def train_and_test(config, folder, place):
        trained.append((config, folder))
        return figures, True

    monkeypatch.setattr(linear, "train_and_test", train_and_test)
    found = task.run(None)
    assert trained == [(task.config, tmp_path / "out" / "linear-caltech101")]
    kept = {"figures": {"caltech101_top1": 50.0}, "mean_per_class": 40.0}
    assert found == {**kept, "resumed": True}


def test_the_head_has_the_width_of_the_features():
    config = Linear(IMAGENET, setting(Path("in"), depth=34)).fit()
    assert config.model.head.in_channels == 512
    assert config.train_dataloader.batch_size == 256
    assert config.test_dataloader.dataset.data_root == "in/imagenet"
