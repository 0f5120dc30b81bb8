"""A localizer without weights: the centre, whatever the image shows."""

from functools import lru_cache

import torch
from torch import Tensor

from mmsalmask.checks import check_sides
from mmsalmask.saliency.localizer import Localizer, check_images


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


class CentrePriorSaliency(Localizer):
    """Weight-free: the centre, whatever the image shows, to compare other localizers with.

    Args:
        map_size: h = w, or (h, w), of the map.
    """

    example = dict(map_size=8)
    needs = "nothing"

    def __init__(self, map_size: int | tuple[int, int] = 28) -> None:
        super().__init__()
        self.map_size = check_sides("map_size", map_size, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Saliency (N, h, w) float32 of images (N, C, H, W): the same for all."""
        check_images(images)
        return centre_prior(self.map_size, images.device).repeat(len(images), 1, 1)
