"""Labelled image folders as an evaluation reads them: centre crops, two sides, the same classes."""

import logging
import os
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mmsalmask.checks import check_integer
from mmsalmask.data import ImageFolder, PerClassSplit, read_image
from mmsalmask.data.bands import BAND_EXTENSIONS, read_bands
from mmsalmask.data.image_folder import check_folder
from mmsalmask.data.loading import EXTENSIONS
from mmsalmask.data.storage import file_identity
from mmsalmask.errors import InputError

# Of an image that is longer than this many times its shorter side, the ends are not resized.
_THIN = 20


def read_centre(path: str | os.PathLike, size: int, channels: int | None = None) -> Tensor:
    """The centre of an image file, see :class:`CentreCrops`.

    Raises:
        BrokenImage: it cannot be read.
    """
    if channels is None:
        return cut_centre(Image.fromarray(read_image(path)[..., ::-1]), size)
    return _cut_bands(torch.from_numpy(read_bands(path, channels)).permute(2, 0, 1), size)


def _middle(side: int, other: int) -> tuple[int, int]:
    """Where the part of a side begins and ends that the centre is cut out of."""
    spare = max(0, side - _THIN * other) // 2
    return spare, side - spare


def cut_centre(image: Image.Image, size: int) -> Tensor:
    """The centre of an RGB image as uint8 (3, S, S), its shorter side being resized to 8/7·S."""
    (left, right), (top, bottom) = _middle(*image.size), _middle(*image.size[::-1])
    image = image.crop((left, top, right, bottom))
    short = round(size * 8 / 7) / min(image.size)
    width, height = (max(size, round(side * short)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    image = image.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _cut_bands(pixels: Tensor, size: int) -> Tensor:
    (top, bottom), (left, right) = _middle(*pixels.shape[1:]), _middle(*pixels.shape[:0:-1])
    pixels = pixels[:, top:bottom, left:right]
    short = round(size * 8 / 7) / min(pixels.shape[1:])
    rows, columns = (max(size, round(side * short)) for side in pixels.shape[1:])
    top, left = (rows - size) // 2, (columns - size) // 2
    resized = F.interpolate(pixels[None], (rows, columns), mode="bilinear", antialias=True)[0]
    return resized[:, top : top + size, left : left + size].contiguous()


class CentreCrops:
    """The last transform of an :class:`ImageFolder`: a uint8 RGB crop (3, S, S) and its class.

    The shorter side is resized to 8/7 of ``size`` (256 for 224), then the centre is cut out. With
    ``channels`` the image is read with all of its depth, as ``mmsalmask.LoadBands`` does, and the
    crop is float32 (channels, S, S).
    """

    def __init__(self, size: int, channels: int | None = None) -> None:
        self.size = check_integer("size", size)
        self.channels = channels
        self.extensions = EXTENSIONS if channels is None else BAND_EXTENSIONS

    def __call__(self, results: dict) -> tuple[Tensor, int]:
        return read_centre(results["img_path"], self.size, self.channels), results["gt_label"]


def labelled_folders(
    train: str,
    test: str | None,
    train_per_class: int | None,
    seed: int,
    size: int,
    channels: int | None = None,
) -> tuple[ImageFolder, ImageFolder]:
    """Centre crops of two folders of one set, or of one folder that ``seed`` splits.

    Args:
        train: folder ``<class>/<image>``.
        test: another with the same classes; ``None`` to split ``train``.
        train_per_class: training images of each class if ``train`` is split.
        size: of the crops, in pixels.
        channels: see :class:`CentreCrops`.

    Raises:
        InputError: for folders that cannot be read so, or cannot be split so.
    """
    for folder in (train, test):
        if folder is not None:
            check_folder(folder, "give a folder <class>/<image>")
    options = dict(pipeline=[CentreCrops(size, channels)], test_mode=True)
    if test is not None:
        return tuple(ImageFolder(root, with_label=True, **options) for root in (train, test))
    return tuple(
        PerClassSplit(train, split, train_per_class, seed, **options) for split in ("train", "test")
    )


def count_classes(train: ImageFolder, test: ImageFolder) -> int:
    """The number of classes, two or more, which must be the same in both, in the same order.

    Raises:
        InputError: if they are not, or there is one alone, or images have no labels.
    """
    for side in (train, test):
        if "classes" not in side.metainfo:
            raise InputError(f"the images of {side.data_root} have no labels: set with_label=True")
    classes = train.metainfo["classes"]
    if different := set(classes) ^ set(test.metainfo["classes"]):
        raise InputError(
            f"{train.data_root} and {test.data_root} do not have the same classes; only one of "
            f"them has {sorted(different)[0]!r} ({len(different)} such): give two folders of one "
            "set"
        )
    if len(classes) < 2:
        raise InputError(
            f"{train.data_root} has one class alone, {classes[0]!r}, so every answer is right: "
            "give a folder with a subfolder for each of several classes"
        )
    others = test.metainfo["classes"]
    for place, (mine, other) in enumerate(zip(classes, others, strict=True)):
        if mine != other:
            raise InputError(
                f"{train.data_root} and {test.data_root} number the same classes in another order: "
                f"class {place} is {mine!r} in one and {other!r} in the other; make both folders "
                "<class>/<image>, or shards by `mmsalmask data pack`"
            )
    return len(classes)


def count_shared(train: ImageFolder, test: ImageFolder) -> int:
    """Count the test images that are also training images, links resolved."""
    known = set(_files(train))
    return sum(file in known for file in _files(test))


def warn_of_shared(sets: tuple[ImageFolder, ImageFolder], logger: logging.Logger) -> int:
    """Count the test images that are training images, too, and warn if there are any."""
    if shared := count_shared(*sets):
        logger.warning(
            f"{shared} of the {len(sets[1])} test images ARE TRAINING IMAGES, too: the accuracies "
            "will be far too high; test on images that are not trained on"
        )
    return shared


def _files(side: ImageFolder) -> Iterator[tuple]:
    """What its storage knows each image by; dangling links are told when they are read."""
    for index in range(len(side)):
        with suppress(OSError):
            yield file_identity(side.get_data_info(index)["img_path"])
