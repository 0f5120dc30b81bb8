"""Maps of whole images: how they are kept, and how a view's own is cut out of one."""

import torch
from torch import Tensor

from mmsalmask.saliency.foreground import informative


def cut(maps: Tensor, box: Tensor, flip: Tensor, grid: tuple[int, int]) -> Tensor:
    """Means of maps over the cells of a grid that lies on a box of each.

    A map counts as constant inside each of its own cells, so a mean is exact: every cell of the map
    weighs as much as the share of the grid's cell that it covers.

    Args:
        maps: (N, R, C), any floating dtype and range; not NaN, not even outside of the boxes.
        box: (N, 4) x0, y0, x1, y1 as shares of width and height, in [0, 1].
        flip: (N,) bool, mirror the result left to right.
        grid: (gh, gw).

    Returns:
        (N, gh, gw) float32; NaN for a box without area, which has no mean.
    """
    rows, columns = maps.shape[-2:]
    left, top, right, bottom = box.float().unbind(1)
    # A mirrored view is one whose cells are counted from the right edge to the left.
    start, end = torch.where(flip, right, left), torch.where(flip, left, right)
    across = _weights(start, end, grid[1], columns)
    down = _weights(top, bottom, grid[0], rows)
    # Sums of products, not matrix products: those may be rounded to ten bits (TF32, autocast),
    # and what is left of a plain wall after such rounding would pass for an object.
    narrowed = (maps.float()[:, None] * across[:, :, None]).sum(-1)  # (N, gw, R)
    return (narrowed[:, None] * down[:, :, None]).sum(-1)  # (N, gh, gw)


def _weights(start: Tensor, end: Tensor, cells: int, size: int) -> Tensor:
    """(N, cells, size): the share of each of ``cells`` from start to end in each of ``size``."""
    steps = torch.arange(cells + 1, device=start.device) / cells
    edges = torch.lerp(start[:, None], end[:, None], steps) * size
    passed = (edges[..., None] - torch.arange(size, device=start.device)).clamp(0, 1)
    covered = passed.diff(dim=1)
    return covered / covered.sum(-1, keepdim=True)


def standardise(saliency: Tensor) -> Tensor:
    """Maps (N, h, w) as a cache keeps them: float16, mean 0 and standard deviation 1 per image.

    A foreground does not change with a positive factor or a shift of the map, and standardised
    values use float16 well, whatever the localizer's range. A map that is not
    :func:`~mmsalmask.saliency.informative` becomes zero: flat wherever it is cut.
    """
    saliency = saliency.float()
    std, mean = torch.std_mean(saliency, dim=(1, 2), correction=0, keepdim=True)
    told = informative(saliency, std)[:, None, None]
    return torch.where(told, (saliency - mean) / std, 0).half()
