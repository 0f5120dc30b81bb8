"""A localizer without weights: what no smooth path connects with the image's border."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsalmask.checks import check_sides
from mmsalmask.device import without_autocast
from mmsalmask.saliency.localizer import Localizer, check_images, contrast

_TINY = torch.finfo(torch.float32).tiny


class GeodesicSaliency(Localizer):
    """Weight-free: how far it is to the border over the image's colours (Wei et al., ECCV 2012).

    The image is reduced to cells. A step to one of the eight neighbours costs their difference in
    colour, and the saliency of a cell is the cost of the cheapest way out to the border, of as many
    steps at most as the longer side of the map has cells. Background of any colours leaves the
    image by small steps; an object has to be left by a large one. Unlike
    :class:`BoundaryPriorSaliency` it assumes nothing about the centre, and an object that touches
    the border is found as far as it lies from there.

    Colours are whitened by their covariance in the image, so that the map changes neither when the
    image is scaled or shifted nor with the usual normalisation. A constant image has a flat map
    (all zero), which :func:`~mmsalmask.saliency.foreground` answers with "no foreground".

    >>> GeodesicSaliency()(torch.rand(2, 3, 64, 64)).shape
    torch.Size([2, 28, 28])

    Args:
        map_size: h = w, or (h, w), of the map; at least 3 cells a side.

    Raises:
        InputError: for a map too small to have an inside.
    """

    example = dict(map_size=8)
    ridge = 0.02  # added to the colours' variances, in units of their mean one

    def __init__(self, map_size: int | tuple[int, int] = 28) -> None:
        super().__init__()
        self.map_size = check_sides("map_size", map_size, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Saliency (N, h, w) float32 of images (N, 3, H, W)."""
        check_images(images)
        with without_autocast(images.device):
            cells = F.adaptive_avg_pool2d(images.float(), self.map_size)
            colours = _whiten(contrast(cells), self.ridge)
            costs = (_neighbours(colours) - colours[:, :, None]).square().sum(1).sqrt()
            inside = [len(images), *(side - 2 for side in self.map_size)]
            distance = F.pad(colours.new_full(inside, torch.inf), (1,) * 4)
            for _ in range(max(self.map_size)):
                onwards = (_neighbours(distance[:, None])[:, 0] + costs).amin(1)
                distance = torch.minimum(distance, onwards)
            return distance


def _whiten(colours: Tensor, ridge: float) -> Tensor:
    """Centred colours (N, 3, h, w) with unit covariance over each image, if they vary at all."""
    flat = colours.flatten(2)
    covariance = flat @ flat.mT / flat.shape[2]
    spread = covariance.diagonal(dim1=1, dim2=2)
    spread.add_(spread.mean(1, keepdim=True), alpha=ridge).add_(_TINY)
    # cholesky_ex does not check its result, which would make the device wait.
    factor = torch.linalg.cholesky_ex(covariance).L
    return torch.linalg.solve_triangular(factor, flat, upper=False).view(colours.shape)


def _neighbours(cells: Tensor) -> Tensor:
    """(N, C, 8, h, w): what the eight neighbours of each cell of (N, C, h, w) hold.

    Beyond the border there is the border's own cell again.
    """
    height, width = cells.shape[2:]
    padded = F.pad(cells, (1,) * 4, mode="replicate")
    moves = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    return torch.stack([padded[:, :, y : y + height, x : x + width] for y, x in moves], 2)
