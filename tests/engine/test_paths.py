"""Datasets of other libraries whose files are not there are refused with what is."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mmsalmask.engine.paths import check_data_paths, fetch_checkpoints
from mmsalmask.errors import InputError

LOADERS = ("train_dataloader", "val_dataloader")


@pytest.fixture
def coco(tmp_path) -> Path:
    (tmp_path / "train").mkdir()
    (tmp_path / "train.json").touch()
    return tmp_path


def config(root: Path, **dataset) -> dict:
    """A dataset inside two wrappers."""
    inner = {
        "type": "CocoDataset",
        "data_root": f"{root}/",
        "ann_file": "train.json",
        "data_prefix": {"img": "train/"},
        **dataset,
    }
    wrapped = {"dataset": {"type": "ConcatDataset", "datasets": [inner]}}
    return {"train_dataloader": {"dataset": wrapped}}


def refusal(settings: dict) -> str:
    with pytest.raises(InputError) as caught:
        check_data_paths(settings, LOADERS)
    return str(caught.value)


WHERE = "train_dataloader.dataset.dataset.datasets.0"


def test_what_is_there_passes_relative_or_absolute(coco, monkeypatch):
    check_data_paths(config(coco), LOADERS)
    check_data_paths(config("no/such/folder")["train_dataloader"], LOADERS)  # of no loader
    elsewhere = {"data_root": None, "ann_file": f"{coco}/train.json"}
    check_data_paths(config(coco, **elsewhere, data_prefix={"img": f"{coco}/train"}), LOADERS)
    monkeypatch.chdir(coco)
    check_data_paths(config("."), LOADERS)
    check_data_paths(config(coco, data_root=""), LOADERS)


def test_a_missing_root_file_or_folder_is_named_with_its_key_and_what_lies_there(coco):
    assert refusal(config(coco / "no")) == (
        f"{WHERE}.data_root: there is no folder {coco}/no; set data_root to where the data lies"
    )
    assert refusal(config(coco, ann_file="annotations/train.json")) == (
        f"{WHERE}.ann_file: there is no {coco}/annotations/train.json; "
        f"{coco} holds train, train.json"
    )
    (coco / "train" / "2017").mkdir()
    assert refusal(config(coco, data_prefix={"img": "train/2016"})) == (
        f"{WHERE}.data_prefix.img: there is no {coco}/train/2016; {coco}/train holds 2017"
    )
    for name in "abcdefg":
        (coco / name).touch()
    assert refusal(config(coco, ann_file="x")).endswith(f"{coco} holds a, b, c, d, e and 4 more")
    evaluators = {
        "val_evaluator": [{"type": "Loss"}, {"type": "CocoMetric", "ann_file": "no.json"}]
    }
    assert refusal(evaluators).startswith("val_evaluator.1.ann_file: there is no no.json; . holds ")


def test_only_the_loaders_that_run_are_looked_at(coco):
    settings = config(coco / "no")
    check_data_paths(settings, ["test_dataloader"])
    settings["test_dataloader"] = settings.pop("train_dataloader")
    check_data_paths(settings, LOADERS)


@pytest.mark.parametrize(
    "dataset",
    [
        {"data_root": "s3://bucket/coco"},
        {"backend_args": {"backend": "petrel"}},
        {"type": "mmsalmask.ImageFolder"},
        {"data_root": None, "ann_file": "https://host/train.json", "data_prefix": {}},
    ],
)
def test_what_looks_for_itself_or_is_elsewhere_is_left_alone(dataset):
    check_data_paths(config("no/such/folder", **dataset), LOADERS)


def test_a_dataset_that_downloads_what_is_not_there_is_left_alone():
    dataset = {"type": "MNIST", "data_root": "no/such/folder"}
    check_data_paths({"train_dataloader": {"dataset": dataset}}, LOADERS)


def test_a_checkpoint_that_cannot_be_downloaded_is_named_by_its_key(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    address = "http://127.0.0.1:9/net.pth"
    start = {"init_cfg": {"type": "Pretrained", "checkpoint": address}}
    localizer = {"masker": {"localizer": {"type": "BackboneSaliency", "checkpoint": address}}}
    settings = {
        "model.backbone.init_cfg.checkpoint": {"model": {"backbone": start}},
        "model.data_preprocessor.masker.localizer.checkpoint": {
            "model": {"data_preprocessor": localizer}
        },
        "load_from": {"load_from": address},
    }
    for key, config in settings.items():
        with pytest.raises(InputError) as caught:
            fetch_checkpoints(Config(config))
        assert str(caught.value).startswith(f"{key}: could not download {address} (")
    fetch_checkpoints(Config({"model": {"backbone": start}}), testing=True)
    unknown = {**start["init_cfg"], "checkpoint": "torchvision://resnet51"}
    with pytest.raises(InputError, match="checkpoint: torchvision has no weights named 'resnet51'"):
        fetch_checkpoints(Config({"model": {"init_cfg": unknown}}))
    file = tmp_path / "hub" / "checkpoints" / "net.pth"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    fetch_checkpoints(Config(settings["load_from"]))
