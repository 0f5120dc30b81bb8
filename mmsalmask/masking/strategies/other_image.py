"""A fill that shows another image of the batch in the masked patches (MixMask)."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from mmsalmask.checks import check_flag
from mmsalmask.masking.strategy import Mixture, Strategy, View


@dataclass(frozen=True)
class OtherImage(Strategy):
    """Plain views; a masked patch shows the same place of another image of the batch.

    The fill of MixMask (Vishniakov, Xing, Shen 2022), whose loss asks for both images in proportion
    to their pixels. Image i of N is filled from image N − 1 − i, as in their code. Their recipe is
    ``patches='block'`` on a grid of 8×8, half of it masked. They draw one mask per batch; here each
    image has its own, and with it its own proportion. Patches only, and of the query alone.

    Args:
        with_clean: let the loss also contrast the query as it was before mixing, as MixMask does
            for one more forward and backward; ``False`` asks for the mixed query alone.

    Raises:
        InputError: for another shape of mask, or a ``with_clean`` that is no truth value.
    """

    mixes = True
    example = dict()

    with_clean: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("with_clean", self.with_clean)

    def fill(self, view: View, generator: Generator | None) -> Tensor:
        return view.seen.flip(0)

    def mixture(self, seen: Tensor, mask: Tensor) -> Mixture:
        return Mixture(
            kept=1 - mask.float().mean((1, 2, 3)),
            partner=torch.arange(len(seen), device=seen.device).flip(0),
            clean=seen if self.with_clean else None,
        )
