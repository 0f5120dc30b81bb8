"""The masker's filters as transforms, for the downstream pipelines of mmpretrain, mmdet and mmseg.

They compute what :mod:`mmsalmask.masking.filters` computes, with OpenCV, which on one core is
three times as fast at 224 px and ten times at 800. A filter belongs after every transform that
expects 8-bit colours (photometric distortion, colour jitter) and before ``Pad`` and packing: a
filter placed after ``Pad`` would see the padding's border as an edge of the image.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from torch import Tensor

from mmsalmask.checks import is_number
from mmsalmask.errors import InputError
from mmsalmask.masking.filters import (
    BLUR_KERNEL,
    BLUR_SIGMA,
    HIGH_PASS_KERNEL,
    HIGH_PASS_SIGMA,
    check_kernel,
    high_pass,
)
from mmsalmask.registry import TRANSFORMS

# ImageNet's, in the B, G, R order of the family's pipelines.
_IMAGENET_MEAN = (103.53, 116.28, 123.675)


def _blur(image: np.ndarray, kernel_size: int, sigma: float) -> np.ndarray:
    """G∗x as float32 of the image's shape; the reflection does not repeat the border pixel."""
    height, width = image.shape[:2]
    radius = kernel_size // 2
    if min(height, width) <= radius:
        # OpenCV would reflect a second time without a word.
        raise InputError(
            f"a {kernel_size}x{kernel_size} blur needs images of at least {radius + 1} px, "
            f"got {height}x{width}: resize first or use a smaller kernel_size"
        )
    blurred = cv2.GaussianBlur(
        image.astype(np.float32),
        (kernel_size, kernel_size),
        sigma,
        borderType=cv2.BORDER_REFLECT_101,
    )
    return blurred.reshape(image.shape)  # OpenCV drops a single channel


@TRANSFORMS.register_module()
class HighPassFilter(BaseTransform):
    """x − G∗x, as an encoder pretrained with the high-pass strategy saw its images.

    The filter is linear and removes constants, so the filtered normalised image is
    (x − G∗x) / std. The data preprocessor behind the pipeline computes (image − mean) / std. This
    transform therefore returns x − G∗x + mean: what reaches the network is exactly the high-pass
    of the normalised image, whatever the std.

    Changed key: ``img`` (H, W, C) uint8 or float → float32, partly negative.

    Args:
        kernel_size: odd width of the Gaussian window in pixels.
        sigma: its standard deviation in pixels.
        mean: the preprocessor's mean, one value per channel, in the order the channels have *in
            the pipeline*: for BGR images and a preprocessor with ``mean=[r, g, b]`` and
            ``bgr_to_rgb=True`` that is ``[b, g, r]``. Default: ImageNet's.

    Raises:
        InputError: for an impossible kernel, an image narrower than the kernel's radius + 1, or a
            mean of another number of channels.
    """

    filters = True  # as a masking strategy says it

    def __init__(
        self,
        kernel_size: int = HIGH_PASS_KERNEL,
        sigma: float = HIGH_PASS_SIGMA,
        mean: Sequence[float] = _IMAGENET_MEAN,
    ) -> None:
        check_kernel(kernel_size, sigma)
        several = isinstance(mean, Sequence) and not isinstance(mean, str)
        if not several or not all(is_number(value) for value in mean):
            raise InputError(f"mean must be a list of numbers, one per channel, got {mean!r}")
        self.kernel_size = kernel_size
        self.sigma = sigma
        self.mean = tuple(mean)

    def see(self, views: Tensor) -> Tensor:
        """The same filter for normalised images (N, C, H, W)."""
        return high_pass(views, self.kernel_size, self.sigma)

    def transform(self, results: dict) -> dict:
        image = results["img"]
        if image.ndim != 3 or image.shape[2] != len(self.mean):
            raise InputError(
                f"HighPassFilter has a mean of {len(self.mean)} channels, the image has shape "
                f"{image.shape}: give it the data preprocessor's mean, one value per channel"
            )
        edges = image.astype(np.float32) - _blur(image, self.kernel_size, self.sigma)
        results["img"] = edges + np.asarray(self.mean, dtype=np.float32)
        return results

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(kernel_size={self.kernel_size}, sigma={self.sigma}, "
            f"mean={self.mean})"
        )


@TRANSFORMS.register_module()
class StrongGaussianBlur(BaseTransform):
    """G∗x with a window large enough to leave only the colours' layout.

    Blurring commutes with the normalisation that follows, so nothing has to be compensated.

    Changed key: ``img`` (H, W) or (H, W, C), any dtype; integer images are rounded back to theirs.

    Args:
        kernel_size: odd width of the Gaussian window in pixels.
        sigma: its standard deviation in pixels.

    Raises:
        InputError: for an impossible kernel or an image narrower than the kernel's radius + 1.
    """

    def __init__(self, kernel_size: int = BLUR_KERNEL, sigma: float = BLUR_SIGMA) -> None:
        check_kernel(kernel_size, sigma)
        self.kernel_size = kernel_size
        self.sigma = sigma

    def transform(self, results: dict) -> dict:
        image = results["img"]
        blurred = _blur(image, self.kernel_size, self.sigma)
        if np.issubdtype(image.dtype, np.integer):
            blurred = np.rint(blurred)  # a weighted mean cannot leave the dtype's range
        results["img"] = blurred.astype(image.dtype)
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(kernel_size={self.kernel_size}, sigma={self.sigma})"
