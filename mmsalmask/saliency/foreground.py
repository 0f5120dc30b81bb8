"""From a saliency map to the foreground patches of its grid."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsalmask.checks import is_number
from mmsalmask.errors import InputError

# A map whose values differ by less than float32 can resolve says nothing about where the object is.
FLATNESS = 1e-6


def _check_map(saliency: Tensor) -> None:
    if saliency.ndim != 3:
        raise InputError(
            f"a saliency map has shape (N, h, w), got {tuple(saliency.shape)}: "
            "sum or index the channels away first"
        )


def pool_to_grid(saliency: Tensor, grid: int | tuple[int, int]) -> Tensor:
    """Average a saliency map over the cells of the patch grid.

    Cell i of g covers rows ⌊i·h/g⌋ … ⌈(i+1)·h/g⌉ − 1, so neighbouring cells share a row where h is
    no multiple of g. A map that already has the grid's size is returned with its values unchanged.

    Args:
        saliency: (N, h, w), any floating dtype and range.
        grid: g for g×g patches, or (gh, gw).

    Returns:
        (N, gh, gw) float32.

    Raises:
        InputError: when the grid has more cells than the map has values along a side.
    """
    _check_map(saliency)
    rows, columns = (grid, grid) if isinstance(grid, int) else grid
    height, width = saliency.shape[-2:]
    if rows < 1 or columns < 1:
        raise InputError(f"a patch grid needs at least 1x1 cells, got {rows}x{columns}")
    if rows > height or columns > width:
        raise InputError(
            f"grid {rows}x{columns} is larger than the saliency map {height}x{width}: "
            "use a smaller grid or a localizer with a finer map"
        )
    if (rows, columns) == (height, width):
        return saliency.float()
    return F.adaptive_avg_pool2d(saliency.float(), (rows, columns))


def informative(saliency: Tensor, std: Tensor | None = None) -> Tensor:
    """Which maps (N, h, w) say where an object is, bool (N,).

    Those that do not are flat, std ≤ 1e-6·max|S|, or hold a NaN or an infinity.

    Args:
        saliency: any floating dtype and range.
        std: the maps' population standard deviations (N, 1, 1), where they are known already.
    """
    saliency = saliency.float()
    if std is None:
        std = saliency.std((1, 2), correction=0, keepdim=True)
    largest = torch.linalg.vector_norm(saliency, math.inf, (1, 2), keepdim=True)
    # A comparison with NaN is False, so a map that is not finite is never informative.
    return (std > FLATNESS * largest)[:, 0, 0]


def foreground(saliency: Tensor, offset: float = 0.6) -> Tensor:
    """Foreground patches: S ≥ mean(S) − offset·std(S), over each image's own grid.

    The standard deviation is the population's. A map that is not :func:`informative` has no
    foreground: its row is all False, and maskers then draw patches at random. It is never all True,
    although every value of a flat map reaches its threshold. Statistics are float32 whatever the
    dtype of the map.

    Args:
        saliency: (N, h, w), any floating dtype and range; usually already on the patch grid.
        offset: standard deviations below the mean that still count as foreground (paper: 0.6).

    Returns:
        (N, h, w) bool, True on the foreground.

    Raises:
        InputError: when ``saliency`` is not (N, h, w), or ``offset`` no finite number.
    """
    _check_map(saliency)
    if not is_number(offset):
        raise InputError(f"offset is a number of standard deviations, got {offset!r}")
    saliency = saliency.float()
    std, mean = torch.std_mean(saliency, dim=(1, 2), correction=0, keepdim=True)
    told = informative(saliency, std)[:, None, None]
    return (saliency >= mean.sub_(std, alpha=offset)).logical_and_(told)
