"""Reading one image file, whatever it holds, or saying why that cannot be done."""

import os

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from PIL import Image

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
EXTENSIONS = tuple(sorted(extension for group in _FORMATS.values() for extension in group))

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
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
    path = os.fspath(path)
    try:
        with Image.open(path, formats=tuple(_FORMATS)) as image:
            pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
            if limit is not None and pixels > limit:
                raise BrokenImage(path, f"{pixels} pixels are more than the limit of {limit}")
            image.load()
            rgb = np.asarray(_to_rgb(_turn_upright(image)))
    except BrokenImage:
        raise
    except Exception as error:  # decoders raise nearly everything on a damaged file
        raise BrokenImage(path, _reason(error)) from error
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)


def why_broken(path: str) -> str:
    """Read the file once more and say why it is broken."""
    try:
        read_image(path)
    except BrokenImage as error:
        return error.reason
    return "failed once, readable now"


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image of a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _turn_upright(image: Image.Image) -> Image.Image:
    # Not ImageOps.exif_transpose: it writes the whole EXIF block anew and fails on a damaged tag.
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG))
    except Exception:
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
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
    """Fill ``img`` from ``img_path`` by :func:`read_image`, which see for what is read and how.

    Added keys: ``img`` (H, W, 3) uint8 BGR, ``img_shape`` and ``ori_shape``, both (H, W).

    Raises:
        BrokenImage: for a file that cannot be read. :class:`mmsalmask.datasets.ImageFolder` takes
            another image instead in training.
    """

    def transform(self, results: dict) -> dict:
        image = read_image(results["img_path"])
        results["img"] = image
        results["img_shape"] = image.shape[:2]
        results["ori_shape"] = image.shape[:2]
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
