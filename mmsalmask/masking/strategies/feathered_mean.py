"""A fill without edges: the mask fades in and out over a few pixels."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mmsalmask.checks import check_share
from mmsalmask.masking.fills import mean_fill
from mmsalmask.masking.strategy import Strategy, View


@dataclass(frozen=True)
class FeatheredMean(Strategy):
    """Plain views; a masked patch fades into the view's own mean colour.

    The mask is averaged over a square window, so that the share of the mean rises linearly from 0
    to 1 across a patch's border, half of the ramp outside and half inside: the border, which a
    ConvNet would respond to, has no edge. Patches only. Not of the paper; docs/study.md compares
    it.

    Args:
        ramp: width of the ramp as a share of the view's side; 1/14 is half a patch of a 7x7 grid.

    Raises:
        InputError: for a ramp outside [0, 1], or another shape of mask.
    """

    example = dict(ramp=0.2)

    ramp: float = 1 / 14

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("ramp", self.ramp)

    def fill(self, view: View, generator: Generator | None) -> Tensor:
        return mean_fill(view.seen)

    def paste(self, seen: Tensor, fill: Tensor, mask: Tensor) -> Tensor:
        return torch.lerp(seen, fill, self.opacity(mask).to(seen.dtype))

    def opacity(self, mask: Tensor) -> Tensor:
        """Share of the fill in each pixel, float32 in [0, 1], of a mask, bool (N, C, H, W)."""
        radius = [round(self.ramp * side / 2) for side in mask.shape[-2:]]
        window = [2 * pixels + 1 for pixels in radius]
        return F.avg_pool2d(mask.float(), window, 1, radius, count_include_pad=False)
