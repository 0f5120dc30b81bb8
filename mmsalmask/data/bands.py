"""Images with any number of channels and more than eight bits: satellite, medical, scientific."""

import io
import os

import cv2
import numpy as np
import tifffile
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mmsalmask.checks import check_integer
from mmsalmask.data.loading import (
    EXTENSIONS,
    BrokenImage,
    LoadWhole,
    guarded,
    open_header,
    to_rgb,
    turned,
    upright,
)
from mmsalmask.data.storage import opened
from mmsalmask.registry import TRANSFORMS

BAND_EXTENSIONS = tuple(sorted((*EXTENSIONS, ".npy")))
# What 16-bit levels are divided by, so that white is 255 as in 8-bit images.
_LEVELS = 257


def read_bands(path: str | os.PathLike, channels: int) -> np.ndarray:
    """An image with all its channels and all its depth, (H, W, channels) float32.

    8-bit values keep their range [0, 255]; 16-bit values are divided by 257, which gives the same
    range in finer steps; all others stay as they are. Read are ``.npy`` files, TIFF of any number
    of channels, 16-bit PNG, and all that :func:`~mmsalmask.data.read_image` reads. The channels are
    in the file's order, of colours R, G, B. A grey image serves for three channels, too.

    Of a ``.npy`` the axis with ``channels`` entries counts the channels, the last one or the first.

    >>> np.save("field.npy", np.zeros((13, 64, 48), np.uint16))  # doctest: +SKIP
    >>> read_bands("field.npy", 13).shape  # doctest: +SKIP
    (64, 48, 13)

    Raises:
        BrokenImage: the file cannot be read, has another number of channels, or values that are not
            finite; of three channels, colours, also values outside of [0, 255].
    """
    with guarded(path):
        with opened(path) as file:
            pixels = _decode(file.read(), channels)
        levels = _to_levels(pixels)
        if levels.shape[2] == 1 and channels == 3:
            levels = np.repeat(levels, 3, axis=2)
        if levels.shape[2] != channels:
            raise BrokenImage(
                os.fspath(path), f"has {levels.shape[2]} channels where {channels} are expected"
            )
        if not np.isfinite(levels).all():
            raise BrokenImage(os.fspath(path), "holds values that are not finite")
        if channels == 3 and not 0 <= levels.min() <= levels.max() <= 255:
            raise BrokenImage(os.fspath(path), "holds colours outside of [0, 255]")
        return np.ascontiguousarray(levels)


def read_whole_bands(
    path: str | os.PathLike, size: int, channels: int
) -> tuple[Tensor, tuple[int, int]]:
    """As :func:`read_bands`, squeezed to a square, (channels, size, size), and its full (H, W).

    Three channels are turned to B, G, R, as images lie in the family's pipelines.
    """
    pixels = read_bands(path, channels)
    bands = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    square = F.interpolate(bands, (size, size), mode="bicubic", antialias=True)
    # Bicubic overshoots what the image has.
    low, high = bands.amin((2, 3), keepdim=True), bands.amax((2, 3), keepdim=True)
    square = square.clamp(low, high)[0]
    return (square.flip(0) if channels == 3 else square), pixels.shape[:2]


def _decode(content: bytes, channels: int) -> np.ndarray:
    """The pixels (H, W, C) in the file's own type."""
    if content.startswith(b"\x93NUMPY"):
        return _last_axis(np.load(io.BytesIO(content), allow_pickle=False), channels)
    if content[:2] in (b"II", b"MM"):
        with tifffile.TiffFile(io.BytesIO(content)) as tiff:
            if tiff.pages[0].dtype != np.uint8 or channels not in (1, 3):
                return _from_tiff(tiff, channels)
    return _from_picture(content)


def _last_axis(array: np.ndarray, channels: int) -> np.ndarray:
    """An array with its channels behind its rows and columns."""
    if array.ndim == 2:
        return array[..., None]
    if array.ndim != 3:
        raise ValueError(f"has {array.ndim} dimensions instead of rows, columns and channels")
    if array.shape[2] != channels and array.shape[0] == channels:
        return array.transpose(1, 2, 0)
    return array


def _from_tiff(tiff: tifffile.TiffFile, channels: int) -> np.ndarray:
    """The first series of a TIFF, upright: channels of one page, or a page for each of them."""
    series = tiff.series[0]
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and series.size > limit * channels:
        raise ValueError(f"{series.size} values are more than the limit of {limit} pixels")
    axes, array = series.axes, series.asarray()
    others = [i for i, axis in enumerate(axes) if axis not in "YX"]
    if len(others) > 1:
        raise ValueError(f"has the axes {axes} instead of rows, columns and channels")
    order = [axes.index("Y"), axes.index("X"), *others]
    tag = tiff.pages[0].tags.get("Orientation")
    return turned(_last_axis(array.transpose(order), channels), 1 if tag is None else tag.value)


def _from_picture(content: bytes) -> np.ndarray:
    """What Pillow reads, upright, and 16-bit colours, of which it would keep the upper byte."""
    with open_header(io.BytesIO(content)) as image:
        image.load()
        return upright(_pixels_of(image, content), image)


def _pixels_of(image: Image.Image, content: bytes) -> np.ndarray:
    if image.format == "PNG" and content[24] == 16:
        return _from_deep_png(content)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return np.asarray(image).astype(np.uint16)[..., None]
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))[..., None]
    return np.asarray(to_rgb(image))


def _from_deep_png(content: bytes) -> np.ndarray:
    array = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if array.ndim == 2:
        return array[..., None]
    colours = array[..., 2::-1]
    if array.shape[2] == 4:  # transparent pixels lie over white
        share = array[..., 3:].astype(np.float64) / 65535
        colours = np.rint(colours * share + 65535 * (1 - share)).astype(np.uint16)
    return colours


def _to_levels(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint16:
        return pixels.astype(np.float32) / _LEVELS
    if not np.issubdtype(pixels.dtype, np.number) or np.iscomplexobj(pixels):
        raise ValueError(f"holds {pixels.dtype} instead of numbers")
    return pixels.astype(np.float32)


@TRANSFORMS.register_module()
class LoadBands(LoadWhole):
    """Fill ``img`` with all channels and all depth of an image, for views made on the device.

    As :class:`LoadWhole`, but by :func:`read_bands`: with 13 channels for a satellite's bands, 1
    for grey images of more than 8 bits, 3 for colours of more than 8 bits. The backbone takes as
    many, ``model.backbone.in_channels``, and so does the preprocessor, whose ``mean`` and ``std``
    ``mmsalmask data stats`` computes.

    Added keys: ``img`` (channels, size, size) float32 tensor, ``img_shape`` (size, size),
    ``ori_shape`` (H, W) of the full image.

    Args:
        channels: that every image has.
        size: side of the square in pixels, see :class:`LoadWhole`.

    Raises:
        InputError: no positive number.
        BrokenImage: see :func:`read_bands`.
    """

    dtype = torch.float32
    extensions = BAND_EXTENSIONS

    def __init__(self, channels: int, size: int = 288) -> None:
        super().__init__(size)
        self.channels = check_integer("channels", channels)

    def read(self, path: str) -> tuple[Tensor, tuple[int, int]]:
        return read_whole_bands(path, self.size, self.channels)

    def image_size(self, path: str) -> tuple[int, int]:
        """Height and width of an image."""
        return read_bands(path, self.channels).shape[:2]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(channels={self.channels}, size={self.size})"
