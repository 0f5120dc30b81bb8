"""Mean and standard deviation of each channel over a set of images, which normalise them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mmsalmask.data.bands import read_bands
from mmsalmask.data.image_folder import ImageFolder
from mmsalmask.data.loading import BrokenImage, read_image
from mmsalmask.errors import InputError

_AT_ONCE = 32


class Statistics(NamedTuple):
    """What :func:`channel_statistics` found.

    Attributes:
        mean, std: a number per channel, of colours in the order R, G, B, in the units in which
            images are loaded: 8-bit and 16-bit ones in [0, 255].
        images: how many were read.
        broken: the paths of those that could not be.
    """

    mean: list[float]
    std: list[float]
    images: int
    broken: list[str]


class _Moments(Dataset):
    """Of each image mean and variance of its channels; of a broken one its path."""

    def __init__(self, images: ImageFolder, channels: int | None) -> None:
        self.images = images
        self.channels = channels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray | str:
        path = self.images.get_data_info(index)["img_path"]
        try:
            if self.channels is None:
                pixels = read_image(path)[..., ::-1]
            else:
                pixels = read_bands(path, self.channels)
        except BrokenImage:
            return path
        pixels = pixels.reshape(-1, pixels.shape[2]).astype(np.float64)
        return np.stack([pixels.mean(0), pixels.var(0)])


def channel_statistics(
    images: ImageFolder,
    channels: int | None = None,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Statistics:
    """Mean and standard deviation of the pixels of a set, every image weighing as much.

    The variance is the mean of the images' variances plus the variance of their means, so that no
    small difference of large sums is ever taken.

    >>> folder = ImageFolder("data/demo/train")  # doctest: +SKIP
    >>> channel_statistics(folder).mean  # doctest: +SKIP
    [121.3, 112.8, 104.1]

    Args:
        images: the set; its pipeline does not count.
        channels: read images with all of their depth and so many channels, as
            ``mmsalmask.LoadBands`` does; ``None`` for 8-bit colours.
        workers: processes that decode.
        progress: is told how many images are done, of how many.

    Raises:
        InputError: no image can be read, or a channel has the same value everywhere, by which
            nothing can be divided.
    """
    moments = _Moments(images, channels)
    loader = DataLoader(
        moments, _AT_ONCE, num_workers=workers, collate_fn=list, generator=torch.Generator()
    )
    found, broken = [], []
    for batch in loader:
        for image in batch:
            (broken if isinstance(image, str) else found).append(image)
        if progress is not None:
            progress(len(found) + len(broken), len(moments))
    if not found:
        raise InputError(
            f"none of the {len(moments)} images of {images.data_root} can be read"
            + (f" with {channels} channels: give --channels what they have" if channels else "")
        )
    means, variances = np.stack(found, axis=1)
    std = np.sqrt(variances.mean(0) + means.var(0))
    if (std == 0).any():
        raise InputError(
            f"channel {int(std.argmin())} of {images.data_root}, counted from 0, has one value "
            "everywhere: leave it out of the images"
        )
    return Statistics(means.mean(0).tolist(), std.tolist(), len(found), broken)
