"""More channels than three and more bits than eight keep them, from the file to the encoder."""

import io

import cv2
import numpy as np
import pytest
import tifffile
import torch
from mmengine.logging import MMLogger
from PIL import Image

from mmsalmask.algorithms.preprocessor import MaskingDataPreprocessor
from mmsalmask.augmentation import DeviceAugmentation, RandomView
from mmsalmask.data import (
    BrokenImage,
    ImageFolder,
    InMemory,
    LoadBands,
    PackWhole,
    channel_statistics,
    pack,
    read_bands,
    read_image,
)
from mmsalmask.data.demo_bands import draw_band_set
from mmsalmask.errors import InputError
from mmsalmask.masking import HighPassNoise, MeanFill, SaliencyMasker
from mmsalmask.saliency import BoundaryPriorSaliency, SpectralResidualSaliency
from mmsalmask.visualization.gallery import to_photos

BANDS = 13


@pytest.fixture
def deep() -> np.ndarray:
    """(16, 24, 3) uint16: levels that 8 bits would not tell apart."""
    y, x = np.mgrid[0:16, 0:24]
    return np.stack([30000 + 3 * x, 40000 + 7 * y, 257 * (x + y)], -1).astype(np.uint16)


@pytest.fixture
def bands() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 10_000, (16, 24, BANDS)).astype(np.uint16)


@pytest.mark.parametrize("name", ["x.png", "x.tif", "planar.tif", "pages.tif", "x.npy"])
def test_sixteen_bits_of_colour_keep_their_depth(tmp_path, deep, name):
    path = tmp_path / name
    if name == "x.png":
        cv2.imwrite(str(path), deep[..., ::-1])
    elif name == "x.npy":
        np.save(path, deep)
    else:
        options = {
            "x.tif": dict(photometric="rgb"),
            "planar.tif": dict(photometric="rgb", planarconfig="separate"),
            "pages.tif": dict(photometric="minisblack"),
        }[name]
        tifffile.imwrite(path, deep if name == "x.tif" else deep.transpose(2, 0, 1), **options)
    found = read_bands(path, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found * 257, deep, atol=0.01)
    assert found.max() <= 255


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.pgm"])
def test_sixteen_bits_of_grey_are_one_channel_or_three(tmp_path, deep, name):
    grey = deep[..., 0]
    if name == "x.pgm":
        (tmp_path / name).write_bytes(b"P5 24 16 65535\n" + grey.astype(">u2").tobytes())
    else:
        Image.fromarray(grey).save(tmp_path / name)
    np.testing.assert_allclose(read_bands(tmp_path / name, 1)[..., 0] * 257, grey, atol=0.01)
    np.testing.assert_array_equal(
        read_bands(tmp_path / name, 3), read_bands(tmp_path / name, 1).repeat(3, -1)
    )


def test_sixteen_bits_are_upright_too(tmp_path, deep):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(deep[..., 0]).save(tmp_path / "x.png", exif=exif)
    tifffile.imwrite(tmp_path / "x.tif", deep, photometric="rgb", extratags=[(0x0112, 3, 1, 6)])
    found = read_bands(tmp_path / "x.tif", 3)
    np.testing.assert_allclose(found * 257, np.rot90(deep, -1), atol=0.01)
    shown = np.rot90(deep[..., 0], -1)
    np.testing.assert_allclose(read_bands(tmp_path / "x.png", 1)[..., 0] * 257, shown, atol=0.01)


def test_transparent_colours_of_sixteen_bits_lie_over_white(tmp_path, deep):
    alpha = np.zeros((16, 24, 1), np.uint16)
    alpha[:, 12:] = 65535
    cv2.imwrite(str(tmp_path / "x.png"), np.concatenate([deep[..., ::-1], alpha], -1))
    found = read_bands(tmp_path / "x.png", 3)
    assert (found[:, :12] == 255).all()
    np.testing.assert_allclose(found[:, 12:] * 257, deep[:, 12:], atol=0.01)


@pytest.mark.parametrize("name", ["x.jpg", "x.webp", "x.png", "x.jp2", "cmyk.jpg", "p.png"])
def test_eight_bits_are_what_they_are_elsewhere(tmp_path, deep, name):
    mode = {"cmyk.jpg": "CMYK", "p.png": "P"}.get(name, "RGB")
    Image.fromarray((deep >> 8).astype(np.uint8)).convert(mode).save(tmp_path / name)
    expected = read_image(tmp_path / name)[..., ::-1]
    np.testing.assert_array_equal(read_bands(tmp_path / name, 3), expected)


@pytest.mark.parametrize("name", ["x.tif", "pages.tif", "deflated.tif", "x.npy", "first.npy"])
def test_thirteen_bands_are_read_in_their_order(tmp_path, bands, name):
    if name.endswith("npy"):
        np.save(tmp_path / name, bands if name == "x.npy" else bands.transpose(2, 0, 1))
    else:
        options = {"compression": "zlib"} if name == "deflated.tif" else {}
        if name != "pages.tif":
            options["planarconfig"] = "contig"
        pages = bands.transpose(2, 0, 1) if name == "pages.tif" else bands
        tifffile.imwrite(tmp_path / name, pages, photometric="minisblack", **options)
    np.testing.assert_allclose(read_bands(tmp_path / name, BANDS) * 257, bands, atol=0.01)


def test_other_numbers_stay_as_they_are(tmp_path):
    decibels = np.random.default_rng(0).normal(-12, 5, (8, 9, 2))
    np.save(tmp_path / "x.npy", decibels)
    np.testing.assert_allclose(read_bands(tmp_path / "x.npy", 2), decibels, rtol=1e-6)
    tifffile.imwrite(tmp_path / "x.tif", decibels[..., 0].astype(np.float32))
    np.testing.assert_allclose(read_bands(tmp_path / "x.tif", 1), decibels[..., :1], rtol=1e-6)


@pytest.mark.parametrize(
    ("array", "channels", "reason"),
    [
        (np.zeros((8, 8, 12)), 13, "has 12 channels where 13 are expected"),
        (np.full((8, 8, 2), np.nan), 2, "holds values that are not finite"),
        (np.full((8, 8, 3), 256.0), 3, r"holds colours outside of \[0, 255\]"),
        (np.zeros((2, 8, 8, 3)), 3, "has 4 dimensions instead of rows"),
        (np.array([{}, {}]), 3, "pickle"),
    ],
)
def test_what_cannot_be_used_is_a_broken_image(tmp_path, array, channels, reason):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(BrokenImage, match=reason):
        read_bands(tmp_path / "x.npy", channels)


def test_damaged_files_and_bombs_are_broken_images(tmp_path, bands, monkeypatch):
    options = dict(photometric="minisblack", planarconfig="contig")
    tifffile.imwrite(tmp_path / "x.tif", bands, **options)
    np.save(tmp_path / "x.npy", bands)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16 * 24 - 1)
    with pytest.raises(BrokenImage, match="more than the limit"):
        read_bands(tmp_path / "x.tif", BANDS)
    monkeypatch.undo()
    for name in ("x.tif", "x.npy"):
        content = (tmp_path / name).read_bytes()
        for share in (0, 0.3, 0.9):
            (tmp_path / name).write_bytes(content[: int(share * len(content))])
            with pytest.raises(BrokenImage):
                read_bands(tmp_path / name, BANDS)


# ------------------------------------------------------------------------------ datasets and models


@pytest.fixture
def field(tmp_path, bands):
    """Six .npy files, the third of which has a band too few."""
    (tmp_path / "set").mkdir()
    for i in range(6):
        array = np.roll(bands, i, axis=2)
        np.save(tmp_path / "set" / f"{i}.npy", array[..., :12] if i == 2 else array)
    return tmp_path / "set"


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_folders_and_shards_hold_arrays_where_the_pipeline_reads_them(field, kind):
    pipeline = [LoadBands(BANDS, size=12), PackWhole()]
    root = str(field)
    if kind == "shards":
        pack(field, field.with_name("packed"), extensions=(".npy",))
        root = str(field.with_name("packed"))
    dataset = ImageFolder(root, pipeline)
    item = dataset[1]
    assert item["inputs"].shape == (BANDS, 12, 12)
    assert item["inputs"].dtype == torch.float32
    assert item["source"]["size"].tolist() == [16, 24]
    dataset[2]
    (broken,) = dataset.broken_files()
    assert dataset.why_broken(broken) == "has 12 channels where 13 are expected"
    held = InMemory(ImageFolder(root, pipeline))
    held.full_init()
    assert held.images.shape == (6, BANDS, 12, 12)
    torch.testing.assert_close(held[1]["inputs"], item["inputs"])
    with pytest.raises(InputError, match=r"found 6 \.npy instead"):
        ImageFolder(str(field))


def test_statistics_are_those_of_all_pixels_of_whole_images(tmp_path):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(3 * i, 1 + i, (6, 7, 2)).astype(np.float32) for i in range(5)]
    for i, array in enumerate(arrays):
        np.save(tmp_path / f"{i}.npy", array)
    np.save(tmp_path / "5.npy", np.zeros((6, 7, 3)))
    images = ImageFolder(str(tmp_path), extensions=[".npy"])
    told = []
    found = channel_statistics(images, 2, progress=lambda done, of: told.append((done, of)))
    pixels = np.concatenate([array.reshape(-1, 2) for array in arrays]).astype(np.float64)
    np.testing.assert_allclose(found.mean, pixels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.std, pixels.std(0), rtol=1e-6)
    assert (found.images, found.broken) == (5, [str(tmp_path / "5.npy")])
    assert told[-1] == (6, 6)
    np.save(tmp_path / "0.npy", arrays[0] * np.array([1, 0]))
    for name in "1234":
        (tmp_path / f"{name}.npy").unlink()
    with pytest.raises(InputError, match=r"channel 1 .* has one value everywhere"):
        channel_statistics(ImageFolder(str(tmp_path), extensions=[".npy"]), 2)
    with pytest.raises(InputError, match=r"none of the 2 images .* with 9 channels"):
        channel_statistics(ImageFolder(str(tmp_path), extensions=[".npy"]), 9)


def test_statistics_of_colours_are_in_the_order_red_green_blue(tmp_path):
    for i in range(2):
        Image.new("RGB", (4, 4), (200 + i, 100 + i, i)).save(tmp_path / f"{i}.png")
    found = channel_statistics(ImageFolder(str(tmp_path)))
    assert found.mean == [200.5, 100.5, 0.5]
    assert found.std == [0.5, 0.5, 0.5]


def test_views_of_bands_change_brightness_contrast_and_sharpness_alone():
    torch.manual_seed(0)
    images = 40 + 100 * torch.rand(6, 5, 40, 40) - 200 * torch.arange(5).view(5, 1, 1)
    sizes, index = torch.tensor([[40, 40]] * 6), torch.arange(6)
    still = dict(crop_area=(1, 1), crop_aspect=(1, 1), blur_prob=0, flip_prob=0, jitter_prob=0)
    plain = RandomView(size=40, **still, grey_prob=1, solarize_prob=1)
    views, _ = DeviceAugmentation(plain)(images, index, sizes)
    torch.testing.assert_close(views[0], images, rtol=1e-5, atol=1e-3)
    bright = RandomView(size=40, **{**still, "jitter_prob": 1}, contrast=0, grey_prob=0)
    views, _ = DeviceAugmentation(bright)(images, index, sizes)
    factor = views[0].mean((2, 3)) / images.mean((2, 3))
    assert (factor.std(1) < 1e-3).all()
    assert factor.min() < 0.9 < 1.1 < factor.max()
    strong = RandomView(size=40, **{**still, "jitter_prob": 1}, brightness=0, grey_prob=0)
    views, _ = DeviceAugmentation(strong)(images, index, sizes)
    torch.testing.assert_close(views[0].mean((2, 3)), images.mean((2, 3)), rtol=1e-4, atol=1e-2)
    share = views[0].std((2, 3)) / images.std((2, 3))
    assert (share.std(1) < 1e-3).all()
    assert share.min() < 0.9 < 1.1 < share.max()
    small, _ = DeviceAugmentation(RandomView(size=24, jitter_prob=0, blur_prob=0))(
        images, index, sizes
    )
    assert (small[0].amin((2, 3)) >= images.amin((2, 3)) - 1e-3).all()
    assert (small[1].amax((2, 3)) <= images.amax((2, 3)) + 1e-3).all()


@pytest.mark.parametrize("channels", [1, 5, BANDS])
@pytest.mark.parametrize("localizer", [BoundaryPriorSaliency, SpectralResidualSaliency])
def test_weight_free_localizers_find_what_differs_in_any_band(channels, localizer):
    torch.manual_seed(0)
    images = torch.randn(4, channels, 56, 56) * 0.1
    images[:, -1, 20:36, 24:40] += 3
    saliency = localizer()(images)
    side = saliency.shape[1]
    first, last = side * 22 // 56, side * 34 // 56
    inside = saliency[:, first:last, first:last].mean((1, 2))
    assert (inside > saliency.mean((1, 2)) + saliency.std((1, 2)) / 2).all()


@pytest.mark.parametrize("strategy", [MeanFill(), HighPassNoise(channel_prob=1.0, focal_prob=0)])
def test_masks_and_fills_take_any_number_of_channels(strategy):
    torch.manual_seed(0)
    query, key = torch.randn(2, 8, BANDS, 56, 56)
    masker = SaliencyMasker(strategy, BoundaryPriorSaliency())
    masked = masker(query, key)
    assert masked.query.shape == query.shape
    assert masked.query_mask.shape[1] == (BANDS if strategy.channel_prob else 1)
    if strategy.channel_prob:  # each channel has patches of its own
        assert (masked.query_mask[:, 0] != masked.query_mask[:, 12]).any()
    seen = strategy.see(query)
    kept = ~masked.query_mask.expand_as(query)
    assert torch.equal(masked.query[kept], seen[kept])
    assert 0.02 < 1 - kept.float().mean() < 0.3


def preprocessor(**options) -> MaskingDataPreprocessor:
    view = dict(type="mmsalmask.RandomView", size=32)
    augment = dict(type="mmsalmask.DeviceAugmentation", view=view)
    settings = dict(mean=[float(i) for i in range(BANDS)], std=[2.0] * BANDS, augment=augment)
    return MaskingDataPreprocessor(**{**settings, **options})


def batch(channels: int = BANDS) -> dict:
    source = {"image": torch.arange(4), "size": torch.tensor([[40, 40]] * 4)}
    images = torch.arange(channels).view(1, -1, 1, 1).expand(4, -1, 40, 40).float()
    return {"inputs": images, "data_samples": [], "source": source}


def test_bands_are_normalised_in_their_order_and_what_is_left_out_is_said_once(monkeypatch):
    one = preprocessor()
    one.augment.views[0].jitter_prob = 0
    said = []
    monkeypatch.setattr(MMLogger.get_current_instance(), "info", said.append)
    views = one(batch(), training=True)["inputs"]
    one(batch(), training=True)
    torch.testing.assert_close(views[0], torch.zeros_like(views[0]), atol=1e-4, rtol=0)
    assert len(said) == 1
    assert "images of 13 channels" in said[0]
    assert "saturation, hue, grey and solarization" in said[0]
    with pytest.raises(InputError, match=r"5 channels, but mean and std .* have 13"):
        preprocessor()(batch(5), training=True)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(mean=[1.0] * 5), "mean has 5 numbers, but std 13"),
        (dict(to_rgb=True), "to_rgb turns three channels, and mean has 13"),
        (dict(shown_bands=[1, 2]), "shown_bands must be three channels"),
        (dict(mean=[]), "three numbers each, or one for each channel"),
    ],
)
def test_settings_that_do_not_fit_bands_are_one_sentence(options, sentence):
    with pytest.raises(InputError, match=sentence):
        preprocessor(**options)


def test_pictures_show_the_bands_that_were_chosen():
    views = torch.zeros(2, BANDS, 8, 8)
    views[:, 7], views[:, 4] = 1.25, -5
    shown = to_photos(views, preprocessor(shown_bands=[7, 0, 4]))
    np.testing.assert_allclose(shown[0, 0, 0], [0.75, 0.5, 0])
    np.testing.assert_allclose(to_photos(views, preprocessor())[0, 0, 0], [0.5, 0.5, 0.5])
    one = MaskingDataPreprocessor(mean=[0.0], std=[1.0])
    assert to_photos(torch.zeros(1, 1, 4, 4), one).shape == (1, 4, 4, 3)
    with pytest.raises(InputError, match="asks for band 20"):
        to_photos(views, preprocessor(shown_bands=[20, 0, 4]))


def test_the_drawn_set_has_objects_that_differ_in_the_infrared(tmp_path):
    draw_band_set(tmp_path, 2, ("disk", "bars"), size=32)
    paths = sorted((tmp_path / "train").rglob("*.tif"))
    assert [path.name for path in paths] == ["0000.tif", "0001.tif"] * 2
    pixels = tifffile.imread(paths[0])
    assert pixels.shape == (32, 32, BANDS)
    assert pixels.dtype == np.uint16
    assert pixels.std() > 1000
    again = io.BytesIO(paths[0].read_bytes())
    draw_band_set(tmp_path, 2, ("disk", "bars"), size=32)
    np.testing.assert_array_equal(tifffile.imread(again), tifffile.imread(paths[0]))
