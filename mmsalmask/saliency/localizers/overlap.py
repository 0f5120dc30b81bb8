"""A localizer that looks at no pixel: the part of a view that its pair's other view shows, too."""

import torch
from torch import Tensor

from mmsalmask.errors import InputError
from mmsalmask.saliency.crops import Crops
from mmsalmask.saliency.localizer import Localizer


class OverlapSaliency(Localizer):
    """What both views of an image show, whatever it is, to compare other localizers with."""

    example = {}
    needs = "crops"

    def locate(self, views: Tensor, crops: Crops | None, grid: tuple[int, int]) -> Tensor:
        """The share of each patch of queries and then keys, (2N, gh, gw), in the other's crop."""
        if crops is None:
            raise InputError("OverlapSaliency needs to know where each view was cut from")
        left, top, right, bottom = crops.box.unbind(1)
        # The other view of a query lies half a batch further on, and that of a key before it.
        other = crops.box.roll(len(crops.box) // 2, 0)
        # The columns of a mirrored view are counted from its right.
        start, end = torch.where(crops.flip, right, left), torch.where(crops.flip, left, right)
        across = _shared(start, end, other[:, 0], other[:, 2], grid[1])
        down = _shared(top, bottom, other[:, 1], other[:, 3], grid[0])
        return down[:, :, None] * across[:, None]


def _shared(start: Tensor, end: Tensor, low: Tensor, high: Tensor, cells: int) -> Tensor:
    """(N, cells): the share of each of ``cells`` from start to end that lies from low to high."""
    steps = torch.arange(cells + 1, device=start.device) / cells
    edges = torch.lerp(start[:, None], end[:, None], steps)
    inside = edges.clamp(low[:, None], high[:, None]).diff(dim=1)
    return inside / edges.diff(dim=1)
