"""Every kind of image file comes out of every storage as it comes out of a folder."""

import numpy as np
import pytest
from PIL import Image, features
from storing import KINDS, stored

from mmsalmask.data import ImageFolder, LoadBands, read_image

LOAD = [{"type": "mmsalmask.LoadImage"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A file of each kind, one of them no image."""
    folder = tmp_path_factory.mktemp("kinds") / "set"
    folder.mkdir()
    y, x = np.mgrid[0:16, 0:24].astype(float)
    rgb = Image.fromarray(np.stack([x * 9, y * 14, 230 - x * 4 - y * 6], -1).astype(np.uint8))
    for kind in ("bmp", "gif", "jpg", "jp2", "png", "ppm", "tif", "webp"):
        rgb.save(folder / f"plain-{kind}.{kind}")
    if "avif" in features.get_supported():
        rgb.save(folder / "plain-avif.avif")
    for mode, kind in (("L", "png"), ("1", "png"), ("P", "png"), ("CMYK", "jpg"), ("LA", "png")):
        rgb.convert(mode).save(folder / f"mode-{mode}.{kind}")
    for kind in ("gif", "webp", "png"):
        rgb.save(folder / f"moving-{kind}.{kind}", save_all=True, append_images=[rgb.rotate(90)])
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.save(folder / "turned.jpg", exif=exif)
    Image.fromarray((x * 2000).astype(np.uint16)).save(folder / "deep.png")
    (folder / "text.jpg").write_text("no image")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_is_read_alike_in_every_storage(folder, kind):
    dataset = ImageFolder(stored(folder, kind), LOAD)
    names = sorted(path.name for path in folder.iterdir())
    assert len(dataset) == len(names) >= 19
    for index, name in enumerate(names):
        if name == "text.jpg":
            continue
        item = dataset[index]
        assert item["sample_idx"] == index
        np.testing.assert_array_equal(item["img"], read_image(folder / name), err_msg=name)
    dataset[names.index("text.jpg")]
    (broken,) = dataset.broken_files()
    assert dataset.why_broken(broken) == "not an image of a known format"


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_is_read_with_its_depth_too(folder, kind, tmp_path):
    dataset = ImageFolder(
        stored(folder, kind), [LoadBands(3, size=16)], extensions=[".png", ".jpg"]
    )
    for index in range(len(dataset)):
        dataset[index]
    assert [dataset.why_broken(path) for path in dataset.broken_files()] == [
        "not an image of a known format"
    ]
    (place,) = (
        i for i in range(len(dataset)) if dataset.get_data_info(i)["img_path"].endswith("deep.png")
    )
    levels = dataset[place]["img"]
    assert (levels != levels.round()).any()
