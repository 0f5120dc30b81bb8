"""A whole run on thirteen bands, from shards of TIFF files to the loss, the picture and kNN."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import run_tool, train_and_close

from mmsalmask.config import load_config
from mmsalmask.data import ImageFolder, channel_statistics, pack
from mmsalmask.data.demo_bands import draw_band_set
from mmsalmask.engine.launch import build_runner

DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo"
BANDS = 13
CONFIG = """
_base_ = {recipe!r}
model = dict(
    queue_len=16,
    backbone=dict(in_channels=13, base_channels=8, stem_channels=8),
    neck=dict(in_channels=64, hid_channels=16, out_channels=8),
    feat_dim=8,
    data_preprocessor=dict(
        mean={mean}, std={std}, to_rgb=False, shown_bands=[12, 5, 3],
        augment=dict(view=dict(size=32))))
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root={root!r},
        pipeline=[
            dict(type='mmsalmask.LoadBands', channels=13, size=32),
            dict(type='mmsalmask.PackWhole')]))
optim_wrapper = dict(optimizer=dict(lr=0.05))
train_cfg = dict(max_epochs=6)
default_hooks = dict(logger=dict(interval=1))
custom_hooks = [
    dict(type='mmsalmask.MaskGalleryHook', interval=6),
    dict(type='mmsalmask.KNNHook', train=dict({labelled}), test=dict({labelled}), size=32,
         num_workers=0, interval=6, metric=dict(type='mmsalmask.KNNMetric', k=(1,)))]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("bands")
    draw_band_set(place / "set", 16, ("disk", "bars"), size=32)
    pack(place / "set" / "train", place / "shards", shard_bytes=10**5)
    found = channel_statistics(ImageFolder(str(place / "shards")), BANDS)
    labelled = f"type='mmsalmask.ImageFolder', data_root={str(place / 'shards')!r}, with_label=True"
    text = CONFIG.format(
        recipe=str(DEMO / "mocov2-salmask-mean_resnet18_demo.py"),
        mean=found.mean,
        std=found.std,
        root=str(place / "shards"),
        labelled=labelled,
    )
    (place / "config.py").write_text(text)
    config = load_config(str(place / "config.py"))
    config.work_dir, config.experiment_name = str(place / "work"), "thirteen_bands"
    train_and_close(build_runner(config))
    return place


def test_the_loss_falls(run):
    (curves,) = run.rglob("scalars.json")
    losses = [line["loss"] for line in map(json.loads, curves.open()) if "loss" in line]
    assert len(losses) == 24
    assert np.isfinite(losses).all()
    # While the queue fills with old keys the loss rises; from there on it falls.
    assert np.mean(losses[-4:]) < np.max(losses) - 0.1


def test_accuracy_picture_and_what_is_left_out_are_told(run):
    text = "\n".join(path.read_text() for path in run.rglob("*.log"))
    assert "images of 13 channels: saturation, hue, grey and solarization" in text
    assert "kNN after epoch 6: " in text
    with Image.open(run / "work" / "masks" / "epoch_1.png") as picture:
        assert picture.convert("RGB").getextrema()[0] != (255, 255)


def test_knn_reads_bands_as_the_recipe_does_and_a_cache_of_them_is_refused(run):
    words = [str(run / "config.py"), str(run / "work" / "epoch_6.pth"), "--size", "32"]
    folders = ["--train", str(run / "set" / "train"), "--test", str(run / "set" / "test")]
    done = run_tool("knn.py", *words, *folders, "-k", "1", "--workers", "0")
    assert done.status == 0, done.err
    out = str(run / "cache.safetensors")
    refused = run_tool("cache_saliency.py", str(run / "config.py"), "-o", out).sentence()
    assert "a cache is made of 8-bit colours" in refused
