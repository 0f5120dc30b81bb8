"""Reading one image file, whatever it holds, or saying why that cannot be done."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import cv2
import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from mmcv.transforms import BaseTransform
from mmpretrain.datasets import PackInputs
from PIL import Image, features
from torch import Tensor

from mmsalmask.checks import check_integer
from mmsalmask.data.storage import opened
from mmsalmask.registry import TRANSFORMS

# Only these decoders are ever tried: Pillow has others that start a program (Ghostscript) or open
# a network of files. What a file is called decides whether it is listed, not how it is decoded.
_FORMATS = {
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "JPEG2000": (".jp2",),
    "PNG": (".png",),
    "PPM": (".ppm", ".pgm", ".pbm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
if "avif" in features.get_supported():  # by Pillow's wheels from 11.3 on
    _FORMATS["AVIF"] = (".avif",)
EXTENSIONS = tuple(sorted(extension for group in _FORMATS.values() for extension in group))

_ORIENTATION_TAG = 0x0112
# By orientation: whether to mirror left and right, then how many quarter turns to the left.
_UPRIGHT = {
    2: (True, 0),
    3: (False, 2),
    4: (True, 2),
    5: (True, 1),
    6: (False, 3),
    7: (True, 3),
    8: (False, 1),
}


class BrokenImage(OSError):
    """A file that is no readable image.

    It keeps ``path`` and ``reason`` through pickling. PyTorch's loader raises what failed in a
    worker again with one string, its report; that string is then the ``path``.
    """

    def __init__(self, path: str, reason: str = "") -> None:
        super().__init__(f"{path}: {reason}" if reason else path)
        self.path = path
        self.reason = reason

    def __reduce__(self):
        return type(self), (self.path, self.reason)


def read_image(path: str | os.PathLike) -> np.ndarray:
    """The image as a viewer shows it, (H, W, 3) uint8 BGR, contiguous.

    The EXIF orientation is applied; an orientation that cannot be parsed counts as upright.
    Transparent pixels are laid over white, 16-bit grey keeps its upper byte (as Pillow and OpenCV
    do for 16-bit colour), CMYK and palettes become RGB, of an animation the first frame is taken.

    Raises:
        BrokenImage: the file cannot be opened, is truncated or no image, has more pixels than
            ``PIL.Image.MAX_IMAGE_PIXELS`` (against decompression bombs), or stores 32-bit or LAB
            pixels, for which no white is defined.
    """
    with guarded(path):
        return _decode(path)[0]


def read_whole(path: str | os.PathLike, size: int) -> tuple[Tensor, tuple[int, int]]:
    """The image as a viewer shows it, squeezed to a square, and the height and width it had.

    A JPEG far larger than the square is decoded at a half, a quarter or an eighth of its size, the
    smallest that is not below the square's on either side. Resizing is bicubic and antialiased, as
    Pillow's (to one level), but by torch, which takes a fraction of the time. For the rest, see
    :func:`read_image`.

    Args:
        path: of the file.
        size: side of the square, in pixels.

    Returns:
        (3, size, size) uint8 BGR, contiguous; (H, W) of the full image, upright.

    Raises:
        BrokenImage: as :func:`read_image`.
    """
    with guarded(path):
        image, full = _decode(path, size)
        # A batch of one with its channels last: torch resizes these strides twice as fast as
        # others, and OpenCV takes the channels apart faster than torch does.
        pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
        square = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True)[0]
        planes = np.empty((3, size, size), np.uint8)
        cv2.split(square.permute(1, 2, 0).numpy(), list(planes))
        return torch.from_numpy(planes), full


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """Height and width as the file's header states them, before any turn to be upright.

    Raises:
        BrokenImage: the header cannot be read.
    """
    with guarded(path), opened(path) as file, open_header(file) as image:
        return image.height, image.width


def _decode(
    path: str | os.PathLike, least: int | None = None
) -> tuple[np.ndarray, tuple[int, int]]:
    """The upright image, (H, W, 3) uint8 BGR, contiguous, and the (H, W) of the full one.

    With ``least``, a JPEG may come reduced, with no side shorter than that.
    """
    with opened(path) as file:
        content = file.read()
    with open_header(io.BytesIO(content)) as image:
        full = image.size[::-1]
        factor = 1 if least is None else min(full) // least
        factor = next((part for part in (8, 4, 2) if part <= factor), 1)
        pixels = _decode_jpeg(content, full, factor) if _is_common_jpeg(image) else None
        if pixels is None:
            image.draft(None, [side // factor for side in image.size])
            rgb = np.asarray(to_rgb(image))
            pixels = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        if image.format == "TIFF":
            return pixels, pixels.shape[:2]
        return upright(pixels, image), full[::-1] if _orientation(image) > 4 else full


def _is_common_jpeg(image: Image.Image) -> bool:
    return image.format == "JPEG" and image.mode in ("L", "RGB")


def _decode_jpeg(content: bytes, full: tuple[int, int], factor: int) -> np.ndarray | None:
    """What Pillow decodes, bit for bit, but faster; ``None`` for Pillow to say what is wrong."""
    height, width = (-(-side // factor) for side in full)
    try:
        return simplejpeg.decode_jpeg(content, "BGR", min_height=height, min_width=width)
    except ValueError:
        return None


@contextmanager
def guarded(path: str | os.PathLike) -> Iterator[None]:
    """Whatever goes wrong until the end is a :class:`BrokenImage` of this path."""
    try:
        yield
    except BrokenImage:
        raise
    except Exception as error:  # decoders raise nearly everything on a damaged file
        raise BrokenImage(os.fspath(path), _reason(error)) from error


@contextmanager
def open_header(source: str | os.PathLike | BinaryIO) -> Iterator[Image.Image]:
    """A picture of which nothing but the header is decoded yet.

    Raises:
        ValueError: it has more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``.
    """
    with Image.open(source, formats=tuple(_FORMATS)) as image:
        pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
        if limit is not None and pixels > limit:
            raise ValueError(f"{pixels} pixels are more than the limit of {limit}")
        yield image


def extension_of(content: bytes) -> str:
    """The usual extension of an image file, with its dot; empty for what is none."""
    try:
        with Image.open(io.BytesIO(content), formats=tuple(_FORMATS)) as image:
            # A JPEG with further pictures behind the first is an MPO to Pillow.
            return _FORMATS["JPEG" if image.format == "MPO" else image.format][0]
    except Exception:  # decoders raise nearly everything on a damaged file
        return ""


def why_broken(path: str, read: Callable[[str], Any] = read_image) -> str:
    """Read the file once more and say why it is broken."""
    try:
        read(path)
    except BrokenImage as error:
        return error.reason
    return "failed once, readable now"


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image of a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def upright(pixels: np.ndarray, image: Image.Image) -> np.ndarray:
    """The pixels (H, W, …) of an image, contiguous, turned as its EXIF orientation says."""
    return turned(pixels, _orientation(image))


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels (H, W, …), contiguous, turned as this value of the EXIF orientation says."""
    mirrored, quarters = _UPRIGHT.get(orientation, (False, 0))
    return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if mirrored else pixels, quarters))


def _orientation(image: Image.Image) -> int:
    # Not ImageOps.exif_transpose: it writes the whole EXIF block anew and fails on a damaged tag.
    if image.format == "TIFF":  # every Pillow turns these itself, some leave the tag
        return 1
    try:
        value = image.getexif().get(_ORIENTATION_TAG)
        return value if value in _UPRIGHT else 1
    except Exception:
        return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as a viewer shows it, in 8-bit R, G, B."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        # Older Pillow opens 16-bit grey as 32-bit "I"; converting either clips instead of scaling.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no defined white, convert the file to 8 or 16 bit")
    if image.mode in ("La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


@TRANSFORMS.register_module()
class LoadImage(BaseTransform):
    """Fill ``img`` from ``img_path`` by :func:`read_image`; see there for what is read.

    Added keys: ``img`` (H, W, 3) uint8 BGR, ``img_shape`` and ``ori_shape``, both (H, W).

    Raises:
        BrokenImage: for a file that cannot be read. :class:`mmsalmask.data.ImageFolder` takes
            another image instead in training.
    """

    read = staticmethod(read_image)

    def transform(self, results: dict) -> dict:
        image = self.read(results["img_path"])
        results["img"] = image
        results["img_shape"] = image.shape[:2]
        results["ori_shape"] = image.shape[:2]
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@TRANSFORMS.register_module()
class LoadWhole(BaseTransform):
    """Fill ``img`` by :func:`read_whole`: what augmentation on the device starts from.

    The square keeps all of the image and batches collate; crops are drawn in the image's own
    pixels, which ``ori_shape`` tells, so that squeezing does not change their distribution.

    Added keys: ``img`` (3, size, size) uint8 BGR tensor, ``img_shape`` (size, size), ``ori_shape``
    (H, W) of the full image.

    Args:
        size: side of the square in pixels. A crop of a share a of the image is made of √a·size
            pixels per side: details that the photo had beyond that are lost. At 1.3 to 1.5 times
            the view's size the views, cut out bicubically, differ between neighbouring pixels as
            much as those of the pipelines on the CPU (their mean square, over photos, to 5 %).

    Raises:
        InputError: the size is no positive number of pixels.
        BrokenImage: for a file that cannot be read, as :class:`LoadImage`.
    """

    channels, dtype = 3, torch.uint8  # of the square
    extensions = EXTENSIONS

    def __init__(self, size: int = 288) -> None:
        self.size = check_integer("size", size)

    def read(self, path: str) -> tuple[Tensor, tuple[int, int]]:
        """The square, and the full image's height and width."""
        return read_whole(path, self.size)

    def transform(self, results: dict) -> dict:
        results["img"], results["ori_shape"] = self.read(results["img_path"])
        results["img_shape"] = (self.size, self.size)
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.size})"


@TRANSFORMS.register_module()
class PackWhole(PackInputs):
    """Pack a whole image for the device, with what tells it apart and how large it was.

    Beside ``inputs`` and ``data_samples`` the item has ``source``: ``image``, its position in the
    dataset (−1 for a file of no dataset), and ``size``, int64 (H, W) of the full image.
    """

    def transform(self, results: dict) -> dict:
        packed = super().transform(results)
        packed["source"] = {
            "image": results.get("sample_idx", -1),
            "size": torch.tensor(results["ori_shape"]),
        }
        return packed
