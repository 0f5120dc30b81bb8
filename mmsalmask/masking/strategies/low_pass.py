"""A cheap fill that keeps where the colours are: the view at the resolution of the patch grid."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Generator, Tensor

from mmsalmask.checks import check_integer
from mmsalmask.errors import InputError
from mmsalmask.masking.strategy import Strategy, View


@dataclass(frozen=True)
class LowPass(Strategy):
    """Plain views; a masked patch shows the same view, seven pixels wide, interpolated.

    Like :class:`StrongBlur` it takes a patch's content and leaves its colours, so that no edge of a
    uniform patch is drawn onto the view, but it reads the view once instead of filtering it: the
    view is averaged over cells and interpolated bilinearly between their centres. Patches only.
    Not of the paper; docs/study.md compares it.

    Args:
        cells: averages per side of the view, by default as many as patches.

    Raises:
        InputError: for less than one cell, another shape of mask, or a view of fewer pixels.
    """

    example = dict(cells=4)

    cells: int = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("cells", self.cells)

    def fill(self, view: View, generator: Generator | None) -> Tensor:
        size = view.seen.shape[-2:]
        if min(size) < self.cells:
            raise InputError(
                f"a view of {size[0]}x{size[1]} px has no {self.cells}x{self.cells} cells: use "
                "larger views or fewer cells"
            )
        averages = F.adaptive_avg_pool2d(view.seen, self.cells)
        return F.interpolate(averages, size, mode="bilinear", align_corners=False)
