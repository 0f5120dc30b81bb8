"""Encoders of images with any number of channels: all that takes an encoder reads them so."""

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import mmsalmask as sm
from mmsalmask.api.backbones import build_backbone
from mmsalmask.api.encoder import Encoder
from mmsalmask.api.reporting import _neighbours
from mmsalmask.data.demo_bands import draw_band_set
from mmsalmask.errors import InputError
from mmsalmask.visualization.embedding import embed as layout_of


def band_encoder(channels: int) -> Encoder:
    backbone = dict(type="ResNet", depth=18, base_channels=8, stem_channels=8, in_channels=channels)
    numbers = [100.0 + i for i in range(channels)]
    preprocessor = dict(mean=numbers, std=[50.0] * channels, to_rgb=channels == 3)
    pipeline = [dict(type="mmsalmask.LoadBands", channels=channels, size=40)]
    config = dict(
        model=dict(backbone=backbone, data_preprocessor=preprocessor),
        train_dataloader=dict(dataset=dict(pipeline=pipeline)),
    )
    return Encoder(build_backbone(backbone, 0), config, "bands").eval()


def test_thirteen_bands_are_embedded_evaluated_and_diagnosed(tmp_path):
    draw_band_set(tmp_path, 10, ("disk", "bars"), size=32)
    first = min((tmp_path / "train").rglob("*.tif"))
    np.save(first.with_suffix(".npy"), tifffile.imread(first))
    encoder = band_encoder(13)
    assert encoder.mean[0] < encoder.mean[-1]
    found = sm.embed(encoder, tmp_path / "train", size=32, workers=0)
    assert (len(found), found.skipped) == (21, [])
    transform = encoder.transform
    transform.size = 32
    with torch.no_grad():
        wanted = encoder(transform(found.paths[3])[None])[0]
    torch.testing.assert_close(torch.from_numpy(found.features[3]), wanted, atol=1e-4, rtol=1e-4)
    (near, similarity), *_ = found.nearest(first)
    assert (near, similarity) == (str(first.with_suffix(".npy")), pytest.approx(1))
    with pytest.raises(InputError, match=r"sees images of 13 channels .*: give the path"):
        transform(Image.new("RGB", (40, 40)))
    result = sm.evaluate(encoder, tmp_path / "train", tmp_path / "test", 32, k=3, workers=0)
    assert (result.classes, result.train_images) == (2, 21)
    assert sm.diagnose(encoder, tmp_path / "train", size=32, workers=0).images == 21
    assert "neighbours.png" in _neighbours(found, tmp_path / "page")  # pictures are left out
    assert len(found.map().axes[0].artists) == 0


def test_the_layout_of_a_report_reads_all_bands(tmp_path):
    draw_band_set(tmp_path, 4, ("disk", "bars"), size=32)
    found = layout_of(band_encoder(13).config, "none", str(tmp_path / "train"), 32)
    assert (len(found["points"]), found["classes"]) == (8, ["bars", "disk"])


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_reach_the_encoder(tmp_path, channels):
    levels = np.random.default_rng(0).integers(30000, 30200, (40, 40, channels)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", levels if channels == 3 else levels[..., 0])
    encoder = band_encoder(channels)
    pixels = encoder.transform(tmp_path / "x.tif") * 50 + encoder.view.mean
    assert pixels.shape[0] == channels
    assert pixels.mean() * 257 == pytest.approx(levels.mean(), abs=20)
    assert (pixels != pixels.round()).any()
    assert len(sm.embed(encoder, tmp_path, workers=0)) == 1
