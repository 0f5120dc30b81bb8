"""sm.pretrain: the config it writes, the run it leaves, and bad input in one sentence."""

import json
import os
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from api_photos import TINY, draw
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image
from torch.utils.data import TensorDataset

import mmsalmask as sm
from mmsalmask.api import pretraining
from mmsalmask.api.backbones import channels_of
from mmsalmask.api.images import evenly, image_paths
from mmsalmask.api.recipes import dataset_config, find_recipe, fit_recipe
from mmsalmask.checkpoint import typed_parts
from mmsalmask.config import check_config, load_config
from mmsalmask.data import pack
from mmsalmask.errors import InputError
from mmsalmask.registry import DATASETS, MODELS


def fit(method="mocov2-salmask-highpass", **changed) -> tuple[Config, str]:
    options = dict(
        dataset=dict(type="mmsalmask.ImageFolder", data_root="photos"),
        backbone="resnet18",
        size=64,
        epochs=100,
        batch_size=64,
        lr=None,
        amp=None,
        devices=1,
        localizer=None,
    )
    return fit_recipe(find_recipe(method), **{**options, **changed})


# ------------------------------------------------------------------------------------ the config


@pytest.mark.parametrize("method", list(sm.list_methods()))
def test_the_recipe_of_every_method_fits_other_data_nets_sizes_and_budgets(method):
    config, told = fit(method)
    check_config(config)
    recipe = load_config(sm.list_methods()[method].config)
    batch = sm.list_methods()[method].batch_size
    lr = recipe.optim_wrapper.optimizer.lr * 64 / batch
    assert config.optim_wrapper.optimizer.lr == pytest.approx(lr)
    assert told.startswith(f"lr {lr:g} for 64 images")
    assert config.train_dataloader.dataset.data_root == "photos"
    assert config.train_dataloader.batch_size == 64
    assert config.train_cfg.max_epochs == 100
    ends = [schedule.get("end", 100) for schedule in config.param_scheduler]
    assert max(ends) == 100
    parts = [
        config.train_dataloader.dataset.pipeline,
        config.model,
        config.get("data_preprocessor"),
    ]
    sides = [
        part.get("scale", part.get("size"))
        for part in typed_parts(parts)
        if part["type"].endswith(("RandomResizedCrop", "RandomView"))
    ]
    assert sides
    assert set(sides) == {64}
    assert config.model.neck.in_channels == 512
    for name in ("type", "head"):
        assert config.model.get(name) == recipe.model.get(name)


def test_warm_ups_shrink_with_the_epochs_and_never_grow():
    before = load_config(find_recipe("simclr").config).param_scheduler
    assert [part.get("end") for part in before] == [10, None]
    short, long = (fit("simclr", epochs=epochs)[0].param_scheduler for epochs in (20, 1000))
    assert [(part.get("begin"), part.get("end")) for part in short] == [(0, 1), (1, None)]
    assert [(part.get("begin"), part.get("end")) for part in long] == [(0, 10), (10, None)]
    (only,) = fit("simclr", epochs=5)[0].param_scheduler  # no epoch is left to warm up
    assert only.type == "CosineAnnealingLR"


def test_devices_share_the_batch_and_given_values_win():
    config, told = fit(devices=4, lr=0.3, amp="bfloat16", localizer="SpectralResidualSaliency")
    assert config.train_dataloader.batch_size == 16
    assert config.optim_wrapper.optimizer.lr == pytest.approx(0.3)
    assert told == "lr 0.3, as given"
    assert config.optim_wrapper.type == "mmsalmask.BFloat16OptimWrapper"
    masker = config.model.data_preprocessor.masker
    assert masker.localizer.type == "mmsalmask.SpectralResidualSaliency"


@pytest.mark.parametrize(
    ("backbone", "channels"),
    [
        ("mobilenet_v3_small", 576),
        ("timm/resnet10t", 512),
        (dict(type="RegNet", arch="regnetx_400mf"), 384),
    ],
)
def test_any_convnet_is_a_backbone_of_an_algorithm(backbone, channels):
    if str(backbone).startswith("timm/"):
        pytest.importorskip("timm")
    config, _ = fit(backbone=backbone)
    assert config.model.neck.in_channels == channels
    config.model.queue_len = 8
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        model = MODELS.build(config.model)
    assert channels_of(model.backbone) == channels
    views = [torch.randn(4, 3, 64, 64), torch.randn(4, 3, 64, 64)]
    losses = model(views, [], mode="loss")
    losses["loss"].backward()
    assert losses["loss"].isfinite()
    assert all(p.grad is not None for p in model.backbone.parameters() if p.requires_grad)


def test_a_vision_transformer_is_refused():
    pytest.importorskip("timm")
    with pytest.raises(InputError, match="only ConvNets are supported"):
        fit(backbone="timm/test_vit")


def test_lists_of_folders_and_files_of_paths_are_data(images, tmp_path):
    more = draw(tmp_path / "more", 2)
    listed = dataset_config([images, more], tmp_path)
    assert listed["type"] == "mmsalmask.ImageList"
    paths = Path(listed["data_root"]).read_text().splitlines()
    assert paths == [*map(str, sorted(images.iterdir())), *map(str, sorted(more.iterdir()))]
    (tmp_path / "paths.txt").write_text("more/00.png\n\n" + str(images / "03.png") + "\n")
    given = dataset_config(tmp_path / "paths.txt", tmp_path)
    dataset = DATASETS.build({**given, "pipeline": [dict(type="mmsalmask.LoadImage")]})
    shapes = [dataset[i]["ori_shape"] for i in range(len(dataset))]
    assert shapes == [(40, 48), (40, 48)]
    assert dataset.get_data_info(1)["img_path"] == str(images / "03.png")


def test_lists_name_every_file_whatever_it_is_called(images, tmp_path):
    more = draw(tmp_path / "more", 2)
    names = [b"00\xe2\x80\xa8.png", b"01\xff.png"]  # a line separator, and no UTF-8
    paths = [os.path.join(more, os.fsdecode(name)) for name in names]
    for path, old in zip(paths, ("00.png", "01.png"), strict=True):
        os.rename(more / old, path)
    listed = dataset_config([more, images], tmp_path)
    assert image_paths(listed["data_root"]) == [*paths, *map(str, sorted(images.iterdir()))]
    file = tmp_path / "bom.txt"
    file.write_bytes(b"\xef\xbb\xbf" + f"{images}/03.png\r\n{images}/01.png\r\n".encode())
    assert image_paths(file) == [f"{images}/03.png", f"{images}/01.png"]


def test_of_several_sources_none_is_an_archive(images, tmp_path):
    pack(images, tmp_path / "shards")
    assert dataset_config(tmp_path / "shards", tmp_path)["type"] == "mmsalmask.ImageFolder"
    with pytest.raises(InputError, match=r"shards holds images that are no files .*: give it alo"):
        dataset_config([images, tmp_path / "shards"], tmp_path)


def test_fewer_images_are_spread_over_all_of_them():
    paths = [str(number) for number in range(10)]
    assert evenly(paths, 6) == ["0", "1", "3", "5", "6", "8"]
    assert evenly(paths, 5) == paths[::2]
    assert evenly(paths, 12) == paths


# --------------------------------------------------------------------------------------- the run


def test_a_run_has_checkpoint_curves_and_pictures(run):
    assert run.checkpoint.name == "epoch_2.pth"
    history = run.history
    assert history["epoch"].tolist() == [1, 2]
    assert np.isfinite(history["loss"]).all()
    assert history["query_masked_fg%"].max() < 30
    curves = run.plot()
    assert curves.axes[0].lines[0].get_ydata().tolist() == history["loss"].tolist()
    masks = run.masks()
    assert isinstance(masks, Figure)
    assert min(masks.axes[0].images[0].get_size()) > 300


def test_a_curve_of_an_evaluation_says_that_it_counts_epochs(tmp_path):
    lines = [{"loss": 2.0, "lr": 0.1, "epoch": 1, "iter": 9, "step": 9}, {"knn_top1": 5, "step": 1}]
    (tmp_path / "now" / "vis_data").mkdir(parents=True)
    (tmp_path / "now" / "vis_data" / "scalars.json").write_text("\n".join(map(json.dumps, lines)))
    axes = sm.Run(tmp_path).plot().axes
    told = {axis.get_title() or axis.get_ylabel(): axis.get_xlabel() for axis in axes}
    assert told == {"loss": "iteration", "lr": "", "knn top1": "epoch"}


def test_the_encoder_of_a_run_is_the_query_encoder(run, images):
    encoder = run.backbone()
    assert (encoder.size, encoder.high_pass) == (32, True)
    state = torch.load(run.checkpoint, weights_only=False)["state_dict"]
    for name, value in encoder.backbone.state_dict().items():
        torch.testing.assert_close(value, state[f"backbone.{name}"])


def test_the_written_config_is_what_the_command_trains(run):
    config = load_config(str(run.folder / "config.py"))
    check_config(config)
    assert config.model.queue_len == TINY["model.queue_len"]
    assert config.train_dataloader.dataset.data_root
    assert config.optim_wrapper.optimizer.lr == pytest.approx(0.015 * 12 / 128)


def test_the_same_call_goes_on_and_curves_stay_whole(run, images, tmp_path, capsys):
    options = dict(backbone="resnet18", size=32, batch_size=12, overrides=TINY)
    first = sm.pretrain(images, tmp_path, epochs=1, **options)
    second = sm.pretrain(images, tmp_path, epochs=2, **options)
    assert second.checkpoint.name == "epoch_2.pth"
    assert second.history["step"].tolist() == [2, 4]
    assert first.history["loss"].tolist() == second.history["loss"].tolist()
    written = (tmp_path / "config.py").read_text()
    with pytest.raises(InputError, match="holds a run already"):
        sm.pretrain(images, tmp_path, epochs=3, resume=False, **options)
    assert (tmp_path / "config.py").read_text() == written
    with pytest.raises(InputError, match=r"a run with another model.*choose another folder"):
        sm.pretrain(images, tmp_path, "mocov2-salmask-mean", epochs=2, **options)


def test_a_finished_run_is_not_said_to_have_had_other_settings(images, tmp_path):
    options = dict(backbone="resnet18", size=32, batch_size=12, epochs=1, overrides=TINY)
    sm.pretrain(images, tmp_path, **options)
    written = (tmp_path / "config.py").read_text()
    with pytest.raises(InputError, match=r"holds a run with another optim_wrapper.optimizer"):
        sm.pretrain(images, tmp_path, lr=0.5, **options)
    assert (tmp_path / "config.py").read_text() == written


def test_the_written_config_imports_the_users_own_classes(tmp_path, monkeypatch):
    (tmp_path / "own_parts_of_mine.py").write_text(
        "from mmsalmask.saliency import CentrePriorSaliency\n\n"
        "class MySaliency(CentrePriorSaliency):\n    example = dict(map_size=8)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import_module("own_parts_of_mine")
    config, _ = fit(localizer="MySaliency")
    pretraining._import_own(config)
    assert config.custom_imports.imports == ["own_parts_of_mine"]
    plain, _ = fit()
    pretraining._import_own(plain)
    assert "custom_imports" not in plain


@pytest.mark.slow
def test_two_processes_train_through_torchrun(images, tmp_path, capfd):
    options = dict(backbone="resnet18", size=32, epochs=1, batch_size=12, overrides=TINY)
    run = sm.pretrain(images, tmp_path, devices=2, **options)
    assert run.checkpoint.name == "epoch_1.pth"
    assert np.isfinite(run.history["loss"]).all()
    with pytest.raises(InputError, match="holds a run already"):
        sm.pretrain(images, tmp_path, devices=2, resume=False, **options)


# ------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (dict(method="mocov2-salmask-higpass"), "did you mean 'mocov2-salmask-highpass'"),
        (dict(method="zzz"), "no method named 'zzz': there are adios-mocov2"),
        (dict(backbone="resnet51"), "no backbone named 'resnet51': did you mean 'resnet5"),
        (dict(backbone="timm/resnet10q"), "did you mean 'resnet10t'"),
        (dict(backbone={"depth": 18}), "a dict with a 'type'"),
        (dict(data="/nowhere"), "/nowhere does not exist: give a folder of images"),
        (dict(data=[]), "data is an empty list"),
        (dict(data=Image.new("RGB", (8, 8))), "a list of these, not Image"),
        (dict(data=np.zeros((2, 8, 8, 3))), "a list of these, not ndarray"),
        (dict(data=[torch.zeros(3, 8, 8)]), "a list of these, not Tensor"),
        (dict(data=TensorDataset(torch.zeros(3))), "a list of these, not TensorDataset"),
        (dict(batch_size=100), "data has 24 images, fewer than the batch_size 100"),
        (dict(devices=5, batch_size=12), "12 cannot be divided over 5 devices"),
        (dict(amp="half"), "amp must be None, 'float16' or 'bfloat16', got 'half'"),
        (dict(lr=-1), "lr must be a number that is not negative"),
        (dict(epochs=0), "epochs must be an integer of at least 1"),
        (dict(localizer="Salience"), "Salience"),
        (dict(method="simclr-mscn", localizer="X"), "masks without a localizer"),
        (dict(overrides={"model.queue_length": 3}), "did you mean 'model.queue_len'"),
        (dict(resume=True), "there is no checkpoint"),
        (dict(resume="nothing.pth"), "checkpoint nothing.pth does not exist"),
        (dict(overrides=["x"]), "overrides must be a dict"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_input_is_one_sentence(changed, words, images, tmp_path):
    if "timm" in str(changed):
        pytest.importorskip("timm")
    options = dict(data=images, backbone="resnet18", size=32, epochs=1, batch_size=12)
    with pytest.raises(InputError) as caught:
        sm.pretrain(**{**options, **changed}, out=tmp_path / "out")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_and_an_empty_list_are_told(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("\n")
    (tmp_path / "table.csv").write_text("name,label\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    for data, words in (
        ("empty", "is empty"),
        ("list.txt", "is empty: write"),
        ("binary.txt", "is no text"),
        ("table.csv", "give a folder of images, an image, or a .txt file of paths"),
    ):
        with pytest.raises(InputError, match=words):
            sm.pretrain(tmp_path / data, tmp_path / "out")


def test_more_gpus_than_there_are_is_told(monkeypatch, images, tmp_path):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="devices is 2, but this machine has 1 GPUs"):
        sm.pretrain(images, tmp_path, devices=2, batch_size=12)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_out_that_cannot_be_made_is_told(images):
    with pytest.raises(InputError, match="cannot be made"):
        sm.pretrain(images, "/proc/out", batch_size=12)


def test_a_folder_without_a_run_says_so(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        sm.Run(tmp_path / "no")
    empty = sm.Run(tmp_path)
    for ask, words in (
        (lambda: empty.checkpoint, "holds no whole checkpoint"),
        (empty.plot, "has no curves yet"),
        (empty.masks, "has no pictures of masks"),
    ):
        with pytest.raises(InputError, match=words):
            ask()
    assert not any(len(column) for column in empty.history.values())


@pytest.mark.parametrize(
    ("size", "gpu", "told"), [(224, False, True), (64, False, False), (224, True, False)]
)
def test_a_large_size_on_a_cpu_is_told_before_it_takes_a_day(
    size, gpu, told, images, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(pretraining, "_train_here", lambda config, resume: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    sm.pretrain(images, tmp_path, "mocov2", "resnet18", size=size, batch_size=12)
    assert ("a CPU is slow at size 224" in capsys.readouterr().out) is told
