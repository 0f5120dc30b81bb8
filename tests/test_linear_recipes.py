"""The recipes of configs/linear: what they say, and that they evaluate a frozen backbone."""

import copy
import json
from pathlib import Path

import mat4py
import numpy as np
import pytest
import torch
from mmpretrain.models import ResNet
from mmpretrain.registry import DATASETS
from PIL import Image
from running import run_tool

from mmsalmask.checkpoint import save_backbone
from mmsalmask.config import check_config, load_config
from mmsalmask.data.demo import draw_demo_set
from mmsalmask.engine.launch import build_runner
from mmsalmask.errors import InputError

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "linear"
PLAIN = sorted(path.name for path in CONFIGS.glob("*-linear_*.py"))
FILTER = dict(type="mmsalmask.HighPassFilter")
CALTECH = "mocov2-linear{}_resnet50_1xb256-steplr-100e_caltech101.py"


def read(name, **options):
    return load_config(str(CONFIGS / name), options)


@pytest.mark.parametrize("name", PLAIN)
def test_each_recipe_is_the_published_one(name):
    config = read(name)
    check_config(config)
    processes, batch = name.split("_")[2].split("-")[0].split("xb")
    assert int(processes) * int(batch) == 256
    assert config.train_dataloader.batch_size == int(batch)
    optimizer = config.optim_wrapper.optimizer
    moco = name.startswith("mocov2")
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ("SGD", 30 if moco else 1, 0)
    schedule = dict(config.param_scheduler[0])
    if moco:
        expected = dict(type="MultiStepLR", milestones=[60, 80], gamma=0.1, by_epoch=True)
    else:
        expected = dict(type="CosineAnnealingLR", by_epoch=True)
    assert schedule == expected
    assert config.train_cfg.max_epochs == 100
    assert config.model.backbone.frozen_stages == 4
    assert dict(type="mmsalmask.FrozenCheckHook", modules=["backbone"]) in config.custom_hooks
    classes = 100 if name.endswith("in100.py") else 102
    assert config.model.head.num_classes == classes


@pytest.mark.parametrize("name", PLAIN)
def test_the_high_pass_variant_differs_by_the_filter_alone(name):
    plain = read(name, data_root="/somewhere").to_dict()
    filtered = read(name.replace("-linear_", "-linear-highpass_"), data_root="/somewhere").to_dict()
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        pipeline = copy.copy(filtered[loader]["dataset"]["pipeline"])
        assert pipeline.pop(-2) == FILTER
        assert pipeline == plain[loader]["dataset"]["pipeline"]
        assert FILTER not in pipeline
        plain[loader]["dataset"].pop("pipeline")
        filtered[loader]["dataset"].pop("pipeline")
    assert filtered == plain
    assert len(list(CONFIGS.glob("*.py"))) == 2 * len(PLAIN)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    draw_demo_set(root, images_per_class=12, classes=("disk", "bars", "ring"), size=48)
    return root / "train"


@pytest.fixture
def backbone(tmp_path):
    torch.manual_seed(0)
    net = ResNet(18, stem_channels=8, base_channels=8)
    net.init_weights()
    facts = {"high_pass": "true", "style": "pytorch", "mmsalmask_version": "0"}
    save_backbone(net.state_dict(), tmp_path / "backbone.pth", "openmmlab", facts)
    return tmp_path / "backbone.pth", net.state_dict()


def small(variant, work, root, backbone, **options):
    """The recipe for Caltech-101 with a small net, for two epochs on a small set."""
    options = {
        "data_root": str(root),
        "model.backbone.init_cfg.checkpoint": str(backbone),
        "model.backbone.depth": 18,
        "model.backbone.base_channels": 8,
        "model.backbone.stem_channels": 8,
        "model.head.in_channels": 64,
        "model.head.num_classes": 3,
        "train_dataloader.batch_size": 8,
        "train_dataloader.dataset.train_per_class": 8,
        "train_dataloader.dataset.pipeline.1.scale": 32,
        "train_cfg.max_epochs": 2,
        "train_cfg.val_interval": 2,
        "default_hooks.checkpoint.interval": 2,
        "val_evaluator.0.topk": (1, 2),
        **options,
    }
    for split in ("val", "test"):
        options[f"{split}_dataloader.dataset.train_per_class"] = 8
        options[f"{split}_dataloader.dataset.pipeline.1.scale"] = 36
        options[f"{split}_dataloader.dataset.pipeline.2.crop_size"] = 32
    for split in ("train", "val", "test"):
        options[f"{split}_dataloader.num_workers"] = 0
        options[f"{split}_dataloader.persistent_workers"] = False
    config = read(CALTECH.format(variant), **options)
    config.work_dir, config.experiment_name = str(work), str(work)
    return config


def warnings_in(work):
    (log,) = work.rglob("*.log")
    return [line for line in log.read_text().splitlines() if " LEARNED FROM " in line]


def test_the_classifier_learns_on_the_backbone_of_the_file_which_stays_as_it_is(
    tmp_path, drawn, backbone
):
    file, state = backbone
    work = tmp_path / "run"
    runner = build_runner(small("-highpass", work, drawn, file))
    runner.train()
    runner.visualizer.close()
    assert warnings_in(work) == []
    trained = torch.load(work / "epoch_2.pth", weights_only=False)["state_dict"]
    for name, value in state.items():
        assert torch.equal(trained[f"backbone.{name}"], value), name
    assert trained["head.fc.bias"].abs().max() > 1e-3
    lines = [json.loads(line) for path in work.rglob("scalars.json") for line in path.open()]
    (figures,) = [line for line in lines if "accuracy/top1" in line]
    # Four test images of each of three classes: as many in each, so both means agree.
    assert len(runner.val_dataloader.dataset) == 12
    assert figures["mean_per_class/recall"] == pytest.approx(figures["accuracy/top1"], abs=1e-3)


def test_the_terminal_tells_each_validation_and_that_the_test_comes_next(
    tmp_path, drawn, backbone, capsys
):
    config = small("-highpass", tmp_path / "run", drawn, backbone[0])
    config.test_evaluator[0].topk = (1, 2)
    runner = build_runner(config, quiet=True)
    runner.train()
    runner.visualizer.close()
    lines = capsys.readouterr().out.splitlines()
    (log,) = (tmp_path / "run").rglob("scalars.json")
    (figures,) = (line for line in map(json.loads, log.open()) if "accuracy/top1" in line)
    (told,) = (line for line in lines if line.startswith("epoch 2/2  accuracy/top1 "))
    assert f"accuracy/top1 {figures['accuracy/top1']:.4g}  " in told
    assert f"start backbone of {backbone[0]}" in " ".join(" ".join(lines).split())
    words = " ".join(lines[lines.index("next:") + 1 :]).replace("\\", "").split()
    recipe = tmp_path / "run" / CALTECH.format("-highpass")
    # Not started by a file of tools/, so by a command that is there wherever the package is.
    assert words == ["mmsalmask", "test", str(recipe), str(tmp_path / "run" / "epoch_2.pth")]
    outcome = run_tool("test.py", *words[2:], "--work-dir", str(tmp_path / "test"))
    assert outcome.status == 0, outcome.err


def test_the_plain_recipe_warns_of_a_backbone_that_knows_filtered_images(tmp_path, drawn, backbone):
    work = tmp_path / "run"
    build_runner(small("", work, drawn, backbone[0]))
    (warned,) = warnings_in(work)
    assert "train_dataloader, val_dataloader, test_dataloader are not filtered" in warned


def test_a_backbone_that_is_not_frozen_stops_the_run(tmp_path, drawn, backbone):
    options = {"model.backbone.frozen_stages": 3, "optim_wrapper.optimizer.lr": 0.1}
    runner = build_runner(small("-highpass", tmp_path / "run", drawn, backbone[0], **options))
    with pytest.raises(InputError, match=r"tensors of backbone changed .*layer4"):
        runner.train()


def test_another_number_of_classes_or_another_backbone_is_refused(tmp_path, drawn, backbone):
    wrong = {"model.head.num_classes": 102}
    runner = build_runner(small("-highpass", tmp_path / "a", drawn, backbone[0], **wrong))
    with pytest.raises(InputError, match="3 classes"):
        runner.train()
    deeper = {"model.backbone.depth": 34}
    with pytest.raises(InputError, match="another architecture"):
        build_runner(small("-highpass", tmp_path / "b", drawn, backbone[0], **deeper))


def test_flowers_102_is_read_by_its_official_split(tmp_path):
    (tmp_path / "jpg").mkdir()
    for number in range(1, 13):
        pixels = np.full((260, 260, 3), 20 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "jpg" / f"image_{number:05d}.jpg")
    labels = [1 + 7 * number for number in range(12)]
    mat4py.savemat(str(tmp_path / "imagelabels.mat"), {"labels": labels})
    split = {"trnid": [1, 4, 7], "valid": [2, 3], "tstid": [5, 6, 8, 9, 10, 11, 12]}
    mat4py.savemat(str(tmp_path / "setid.mat"), split)
    config = read(
        CALTECH.format("-highpass").replace("caltech101", "flowers102"), data_root=str(tmp_path)
    )
    for loader, numbers in (("train", [1, 4, 7, 2, 3]), ("test", split["tstid"])):
        dataset = DATASETS.build(config[f"{loader}_dataloader"].dataset)
        assert [dataset[i]["data_samples"].gt_label.item() for i in range(len(dataset))] == [
            labels[number - 1] - 1 for number in numbers
        ]
        assert len(dataset.metainfo["classes"]) == 102
        item = dataset[0]["inputs"]
        assert item.shape == (3, 224, 224)
        # A picture of one colour is nothing but the preprocessor's mean after the filter.
        mean = torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)
        assert (item - mean).abs().max() < 1
