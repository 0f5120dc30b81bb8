"""The paper's third strategy: a masked patch shows one colour."""

from dataclasses import dataclass

from torch import Generator, Tensor

from mmsalmask.masking.fills import mean_fill
from mmsalmask.masking.strategy import Strategy, View


@dataclass(frozen=True)
class MeanFill(Strategy):
    """Plain views; a masked patch shows the view's own mean colour. Patches only.

    Raises:
        InputError: for another shape of mask.
    """

    example = dict()

    def fill(self, view: View, generator: Generator | None) -> Tensor:
        return mean_fill(view.seen)
