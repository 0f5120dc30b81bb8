"""Saliency for free: maps of whole images, computed once, from which each view cuts its own."""

import torch
from torch import Tensor

from mmsalmask.errors import InputError
from mmsalmask.saliency.crops import Crops
from mmsalmask.saliency.localizer import Localizer
from mmsalmask.saliency.maps import cut


class CachedSaliency(Localizer):
    """Maps of whole images instead of a network.

    The map of a view is the part of its image's map that lies in the view's crop, averaged over
    the cells of the patch grid and mirrored as the view is. All on the device of the crops:
    nothing waits for it.

    The maps are an attribute and no buffer: they are in no ``state_dict``. On a CPU they stay where
    they lie, in a mapped file, for example, which all processes share; to a GPU they are copied at
    the first call, images · R · C · 2 bytes (50 MB for ImageNet-100 at 14×14).

    Args:
        maps: (images, R, C) float, NaN nowhere; made by
            :func:`~mmsalmask.saliency.standardise`, or read from a file by
            :func:`mmsalmask.engine.saliency_cache.open_cache`.
        name: what error messages call it.
    """

    needs = "crops"
    example = dict(maps=torch.eye(8).expand(4, 8, 8))

    def __init__(self, maps: Tensor, name: str = "the cache") -> None:
        super().__init__()
        self.maps = maps
        self.name = name

    def locate(self, views: Tensor, crops: Crops | None, grid: tuple[int, int]) -> Tensor:
        if crops is None:
            raise InputError(
                "a saliency cache needs to know where each view was cut from: use "
                "mmsalmask.MultiView, mmsalmask.RandomResizedCrop and mmsalmask.PackInputs in the "
                "pipeline, as configs/_base_/datasets/mocov2_views.py does"
            )
        device = crops.image.device
        if self.maps.device != device:
            self.maps = self.maps.to(device)
        return cut(self.maps.index_select(0, crops.image), crops.box, crops.flip, grid)

    def check_grid(self, grid: tuple[int, int]) -> None:
        rows, columns = self.maps.shape[1:]
        if grid[0] > rows or grid[1] > columns:
            raise InputError(
                f"{self.name} holds maps of {rows}x{columns} cells, too coarse for a grid of "
                f"{grid[0]}x{grid[1]} patches: make it anew with a larger --size"
            )

    def extra_repr(self) -> str:
        return f"{self.name!r}, maps={tuple(self.maps.shape)}"
