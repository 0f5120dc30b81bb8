"""A localizer without weights: what looks unlike the image's border, and lies near its centre."""

import math
from collections.abc import Iterator
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsalmask.checks import check_sides
from mmsalmask.device import constant, without_autocast
from mmsalmask.saliency.localizer import Localizer, check_images
from mmsalmask.saliency.localizers.centre_prior import centre_prior

_TINY = torch.finfo(torch.float32).tiny


@lru_cache(maxsize=32)
def _frame(map_size: tuple[int, int], border: float, device: torch.device) -> Tensor:
    """(h·w) weights, equal on the border cells and zero inside, with sum 1."""
    with torch.inference_mode(False):
        height, width = map_size
        top, left = (max(1, round(border * side)) for side in map_size)
        frame = torch.ones(height, width)
        frame[top : height - top, left : width - left] = 0
        return (frame.flatten() / frame.sum()).to(device)


class BoundaryPriorSaliency(Localizer):
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

    example = dict(map_size=8)
    border = 1 / 14  # width of the background frame as a share of the side (2 of 28 cells)
    ridge = 0.01  # added to the border's variances, in units of the whole image's variance
    texture_floor = 0.3  # in units of the mean energy: below it, texture is noise, not a cue
    pairs = 2  # of neighbouring rows that tell the texture of a cell
    rounding = 1e-4  # a spread far below this share of the largest value is float32 noise

    def __init__(self, map_size: int | tuple[int, int] = 28) -> None:
        super().__init__()
        self.map_size = check_sides("map_size", map_size, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Saliency (N, h, w) float32 of images (N, C, H, W)."""
        return self.border_distance(images) + centre_prior(self.map_size, images.device)

    def border_distance(self, images: Tensor) -> Tensor:
        """log(1 + d²), (N, h, w) float32: the map without the centre prior."""
        check_images(images)
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
        colour, energy = cells.split((images.shape[1], cells.shape[1] - images.shape[1]), 1)
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
