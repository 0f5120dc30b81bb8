"""Which part of which image a view shows."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Crops:
    """Where the views of a batch were cut from; what a saliency cache needs to cut the same.

    Attributes:
        image: (N,) int64, the images' positions in their dataset.
        box: (N, 4) float32, x0, y0, x1, y1 as shares of the image's width and height, in [0, 1],
            before any flip.
        flip: (N,) bool, whether the view is then mirrored left to right.
    """

    image: Tensor
    box: Tensor
    flip: Tensor

    def followed_by(self, other: "Crops") -> "Crops":
        """These crops and then the others, as one batch."""
        pairs = ((self.image, other.image), (self.box, other.box), (self.flip, other.flip))
        return Crops(*map(torch.cat, pairs))
