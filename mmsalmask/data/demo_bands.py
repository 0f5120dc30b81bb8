"""The demo set as a satellite would see it: 16-bit TIFF files with thirteen bands, or more."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile

from mmsalmask.checks import check_integer
from mmsalmask.data.demo import DEMO_CLASSES, draw_picture

# Reflectance in [0, 1] is stored as it is by the satellites' makers.
_SCALE = 10_000
# Where on the band axis, from 0 to 1, blue, green and red respond most, and how widely.
_COLOURS, _WIDTH = (0.1, 0.25, 0.4), 0.12
# From here on the axis is infrared. There the objects of a class, made of one material, absorb at a
# wavelength of their own; the ground has one of a few levels, so that it tells no image apart.
_INFRARED, _DIP = 0.5, 0.09
_GROUNDS = (0.2, 0.4, 0.6)
# The bands of a pixel lie side by side; otherwise tifffile takes the rows for pages.
_LAYOUT = dict(photometric="minisblack", planarconfig="contig")


def draw_band_set(
    root: str | Path,
    images_per_class: int = 50,
    classes: Sequence[str] = DEMO_CLASSES,
    size: int = 64,
    channels: int = 13,
    seed: int = 0,
) -> None:
    """Write ``root/train/<class>/0000.tif`` … and a quarter as many below ``root/test``.

    Args:
        root: folder of the set; files of the same names are replaced.
        images_per_class: training images of each class.
        classes: names out of ``DEMO_CLASSES``.
        size: height and width in pixels.
        channels: bands of an image, at least 2.
        seed: of the whole set.

    Raises:
        InputError: for numbers that are none.
    """
    check_integer("images_per_class", images_per_class)
    check_integer("channels", channels, 2)
    for split, count in (("train", images_per_class), ("test", max(1, images_per_class // 4))):
        for name in classes:
            folder = Path(root, split, name)
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                pixels = draw_bands(name, size, channels, (seed, split == "test", index))
                tifffile.imwrite(folder / f"{index:04d}.tif", pixels, **_LAYOUT)


def draw_bands(name: str, size: int, channels: int, seed: Sequence[int]) -> np.ndarray:
    """One image of class ``name``, (size, size, channels) uint16: reflectance times 10,000."""
    picture, mask = draw_picture(name, size, seed)
    random = np.random.RandomState([*map(int, seed), DEMO_CLASSES.index(name), channels])
    colours = np.asarray(picture, dtype=np.float32)[..., ::-1] / 255
    axis = np.linspace(0, 1, channels, dtype=np.float32)
    response = np.exp(-(((axis - np.array(_COLOURS)[:, None]) / _WIDTH) ** 2))
    bands = colours @ (response / (response.sum(0) + 0.3)).astype(np.float32)
    place = _INFRARED + (1 - _INFRARED) * (DEMO_CLASSES.index(name) + 0.5) / len(DEMO_CLASSES)
    surface = 0.6 * (1 - np.exp(-(((axis - place) / _DIP) ** 2)))
    ground = _GROUNDS[random.randint(len(_GROUNDS))]
    infrared = np.where(np.asarray(mask)[..., None] > 0, surface, ground)
    infrared = infrared * (0.7 + 0.6 * colours.mean(2, keepdims=True))
    bands += infrared * np.clip((axis - _INFRARED) / 0.1 + 0.5, 0, 1)
    bands += random.normal(0, 0.01, bands.shape)
    return np.rint(np.clip(bands, 0, 1) * _SCALE).astype(np.uint16)
