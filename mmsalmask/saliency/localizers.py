"""Localizers: images (N, 3, H, W) → saliency map (N, h, w), higher on the object.

All take any floating dtype, any H and W, raw or normalised images, and return float32. The two
that need no weights compute in float32 under autocast too.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsalmask.checks import check_flag, check_integer, check_sides, is_integer
from mmsalmask.device import constant, without_autocast
from mmsalmask.errors import InputError

_TINY = torch.finfo(torch.float32).tiny


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 2:
        raise InputError(
            "a localizer needs images of shape (N, 3, H, W) with at least 2x2 pixels, "
            f"got {tuple(images.shape)}"
        )


class BackboneSaliency(nn.Module):
    """S = Σ_c F_c: the channel sum of a backbone's last feature map (Chin et al. 2024, sec. 3).

    ``size``, ``channels_last`` and ``dtype`` make it cheaper; benchmarks/cached_saliency.py
    measures how much of the foreground they keep.

    Args:
        backbone: normalised images (N, 3, H, W) → features (N, C, h, w), or a tuple or list of
            feature maps of which the last is taken. Its weights are float32.
        size: pixels of the longer side to which larger images are reduced before the backbone. The
            map is interpolated to as many cells as that of the whole image would have, so a patch
            grid that fitted still does.
        channels_last: run the backbone in that memory format, which convolutions prefer.
        dtype: ``"float16"`` or ``"bfloat16"`` to run the backbone under autocast, ``"float32"`` to
            run it without, also where training has it. Default: as training does.

    Raises:
        InputError: for a size below one pixel or another dtype.
    """

    def __init__(
        self,
        backbone: nn.Module,
        size: int | None = None,
        channels_last: bool = False,
        dtype: Literal["float32", "float16", "bfloat16"] | None = None,
    ) -> None:
        super().__init__()
        if size is not None and not is_integer(size, 1):
            raise InputError(f"size is the longer side in pixels, at least 1, got {size!r}")
        if dtype not in (None, "float32", "float16", "bfloat16"):
            raise InputError(f"dtype must be 'float32', 'float16' or 'bfloat16', got {dtype!r}")
        self.size = size
        channels_last = check_flag("channels_last", channels_last)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.dtype = dtype
        self.backbone = backbone.to(memory_format=self.memory_format)

    def forward(self, images: Tensor) -> Tensor:
        """Saliency (N, h, w) float32, ``h`` and ``w`` those of the last feature map.

        Raises:
            InputError: when the images are not (N, 3, H, W), or the backbone returns something
                else than feature maps, such as pooled features.
        """
        _check_images(images)
        reduced = self._reduce(images.float())
        with self._autocast(images.device.type):
            features = self.backbone(reduced.contiguous(memory_format=self.memory_format))
        if isinstance(features, (tuple, list)) and features:
            features = features[-1]
        if not isinstance(features, Tensor) or features.ndim != 4:
            found = tuple(features.shape) if isinstance(features, Tensor) else type(features)
            raise InputError(
                f"the localizer's backbone must return feature maps (N, C, h, w), got {found}: "
                "use it without its pooling and its head"
            )
        # Half precision would round a sum over 2,048 channels to three digits.
        saliency = features.sum(1, dtype=torch.float32)
        if reduced.shape == images.shape:
            return saliency
        cells = [
            round(cell * full / small)
            for cell, full, small in zip(
                saliency.shape[1:], images.shape[2:], reduced.shape[2:], strict=True
            )
        ]
        return F.interpolate(saliency[:, None], cells, mode="bilinear")[:, 0]

    def _reduce(self, images: Tensor) -> Tensor:
        longer = max(images.shape[2:])
        if self.size is None or longer <= self.size:
            return images
        sides = [max(2, round(side * self.size / longer)) for side in images.shape[2:]]
        return F.interpolate(images, sides, mode="bilinear", antialias=True)

    def _autocast(self, device: str) -> AbstractContextManager:
        if self.dtype is None:
            return nullcontext()
        if self.dtype == "float32":
            return torch.autocast(device, enabled=False)
        return torch.autocast(device, dtype=getattr(torch, self.dtype))


@lru_cache(maxsize=32)
def _centre_prior(map_size: tuple[int, int], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        rows, columns = (((torch.arange(size) + 0.5) / size * 2 - 1).square() for size in map_size)
        return -(rows[:, None] + columns).to(device)


def centre_prior(map_size: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
    """(h, w) float32: −r², r the distance from the centre in half-sides, so −2 < −r² ≤ 0.

    The logarithm of a Gaussian with a standard deviation of 0.35 of the side: where photographers
    put what they photograph.
    """
    return _centre_prior(tuple(map_size), torch.device(device))


@lru_cache(maxsize=32)
def _frame(map_size: tuple[int, int], border: float, device: torch.device) -> Tensor:
    """(h·w) weights, equal on the border cells and zero inside, with sum 1."""
    with torch.inference_mode(False):
        height, width = map_size
        top, left = (max(1, round(border * side)) for side in map_size)
        frame = torch.ones(height, width)
        frame[top : height - top, left : width - left] = 0
        return (frame.flatten() / frame.sum()).to(device)


class BoundaryPriorSaliency(nn.Module):
    """Weight-free: what looks unlike the image's border, and lies near its centre.

    Every cell of a reduced map is described by its mean colour and by how strongly the brightness
    varies inside it in four directions: along a row and, straight and aslant, to the row below. Of
    cells with many rows, two such pairs of rows tell it. The cells along the border are taken for
    background, and d² is the squared Mahalanobis distance of a cell from their distribution:

        S = log(1 + d²) − r²

    with r the distance from the centre in half-sides (:func:`centre_prior`): the logarithm of
    "d² times a Gaussian around the centre", so that neither the scale of d² nor a few extreme cells
    decide. A constant image has d² = 0 and keeps the centre prior alone; a channel without
    variation (grey images) contributes nothing. S does not change when the images are scaled or a
    channel is shifted, and next to nothing under the per-channel scales of the usual
    normalisation, so raw and normalised images serve alike.

    Constants chosen on the 100 training photos of coco-mini: there 28 to 56 cells, a border of 1/14
    and regularisation from 0.003 to 0.03 all score within 0.005 of each other, as two pairs of rows
    and all eight do.

    Args:
        map_size: h = w, or (h, w), of the map; at least 3 cells a side.

    Raises:
        InputError: for a map too small to have an inside.
    """

    border = 1 / 14  # width of the background frame as a share of the side (2 of 28 cells)
    ridge = 0.01  # added to the border's variances, in units of the whole image's variance
    texture_floor = 0.3  # in units of the mean energy: below it, texture is noise, not a cue
    pairs = 2  # of neighbouring rows that tell the texture of a cell
    rounding = 1e-4  # a spread far below this share of the largest value is float32 noise

    def __init__(self, map_size: int | tuple[int, int] = 28) -> None:
        super().__init__()
        self.map_size = check_sides("map_size", map_size, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Saliency (N, h, w) float32 of images (N, 3, H, W)."""
        return self.border_distance(images) + centre_prior(self.map_size, images.device)

    def border_distance(self, images: Tensor) -> Tensor:
        """log(1 + d²), (N, h, w) float32: the map without the centre prior."""
        _check_images(images)
        with without_autocast(images.device):
            cells = self._describe(images.float()).flatten(2)
            weight = _frame(self.map_size, self.border, images.device)
            centred = cells - cells @ weight[:, None]
            covariance = (centred * weight) @ centred.mT
            covariance.diagonal(dim1=1, dim2=2).add_(self.ridge)
            # cholesky_ex does not check its result, which would make the device wait.
            factor = torch.linalg.cholesky_ex(covariance).L
            whitened = torch.linalg.solve_triangular(factor, centred, upper=False)
            return whitened.square().sum(1).log1p().unflatten(1, self.map_size)

    def _describe(self, images: Tensor) -> Tensor:
        """(N, 7, h, w): colour and log texture energy, each with mean 0 and variance 1."""
        parts = [
            F.adaptive_avg_pool2d(images, self.map_size),
            *(
                F.adaptive_avg_pool2d(F.mse_loss(*pair, reduction="none"), self.map_size)
                for pair in self._neighbours(images)
            ),
        ]
        cells = torch.cat(parts, dim=1)
        colour, energy = cells[:, :3], cells[:, 3:]
        # What float32 makes of a constant image: a share of its largest value.
        largest = torch.linalg.vector_norm(colour, math.inf, (1, 2, 3), keepdim=True)
        scale = energy.mean((2, 3), keepdim=True)
        scale.addcmul_(largest, largest, value=self.rounding**2).add_(_TINY)
        floor = constant([self.texture_floor], images.device)
        torch.addcdiv(floor, energy, scale, out=energy).log_()
        largest = torch.linalg.vector_norm(cells, math.inf, (2, 3), keepdim=True)
        std, mean = torch.std_mean(cells, dim=(2, 3), keepdim=True)
        return (cells - mean).div_(std.add_(largest, alpha=self.rounding).add_(_TINY))

    def _neighbours(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Brightness of neighbouring pixels, (N, 1, rows, columns) each, in four directions."""
        step = max(1, images.shape[2] // (self.pairs * self.map_size[0]))
        above, below = (images[:, :, row::step].mean(1, keepdim=True) for row in (0, 1))
        yield above[..., 1:], above[..., :-1]
        above = above[:, :, : below.shape[2]]
        yield below, above
        yield below[..., 1:], above[..., :-1]
        yield below[..., :-1], above[..., 1:]


class SpectralResidualSaliency(nn.Module):
    """Weight-free: what the smooth log spectrum does not predict (Hou & Zhang, CVPR 2007).

    R = log A − (log A averaged over 3×3 frequencies), S = blur |F⁻¹ exp(R + i·phase)|², for the
    grey image at 64×64 px. The blur is three 5×5 box filters, which together have σ = √6 px, the
    paper's 2.5. A constant image has no spectrum but its mean: its map is flat (all zero), which
    :func:`~mmsalmask.saliency.foreground` answers with "no foreground".

    Args:
        map_size: side of the reduced image and of the map.
    """

    # Amplitudes below this share of the mean one are rounding; their phase means nothing.
    floor = 1e-4

    def __init__(self, map_size: int = 64) -> None:
        super().__init__()
        self.map_size = check_integer("map_size", map_size, 5)

    def forward(self, images: Tensor) -> Tensor:
        """Saliency (N, h, w) float32 of images (N, 3, H, W); h = w = ``map_size``."""
        _check_images(images)
        with without_autocast(images.device):
            grey = F.adaptive_avg_pool2d(images.float().mean(1), self.map_size)
            mean = grey.mean((1, 2), keepdim=True)
            # Where only float32 rounding is left of the image, nothing is.
            contrast = grey - mean
            contrast = contrast * (contrast.abs() > 1e-6 * mean.abs())
            spectrum = torch.fft.fft2(contrast)
            spectrum[:, 0, 0] = 0  # exactly: the logarithm would magnify what rounding left of it
            amplitude = spectrum.abs()
            floor = self.floor * amplitude.mean((1, 2), keepdim=True)
            floor = floor + torch.finfo(amplitude.dtype).tiny
            log_amplitude = (amplitude + floor).log()
            around = F.avg_pool2d(F.pad(log_amplitude[:, None], (1,) * 4, mode="circular"), 3, 1)
            residual = (log_amplitude - around[:, 0]).exp() * spectrum / (amplitude + floor)
            saliency = torch.fft.ifft2(residual).abs().square()
            for _ in range(3):
                saliency = F.avg_pool2d(saliency, 5, 1, 2, count_include_pad=False)
            return saliency
