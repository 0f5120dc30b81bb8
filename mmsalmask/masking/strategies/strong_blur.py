"""The paper's second strategy: a masked patch is blurred."""

from dataclasses import dataclass

from torch import Generator, Tensor

from mmsalmask.masking.fills import blur_fill
from mmsalmask.masking.filters import BLUR_KERNEL, BLUR_SIGMA, check_kernel
from mmsalmask.masking.strategy import Strategy, View


@dataclass(frozen=True)
class StrongBlur(Strategy):
    """Plain views; a masked patch shows the same view strongly blurred. Patches only.

    Raises:
        InputError: for an even kernel, σ ≤ 0, or another shape of mask.
    """

    example = dict(kernel_size=9, sigma=3.0)

    kernel_size: int = BLUR_KERNEL
    sigma: float = BLUR_SIGMA

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kernel(self.kernel_size, self.sigma)

    def fill(self, view: View, generator: Generator | None) -> Tensor:
        return blur_fill(view.seen, self.kernel_size, self.sigma)
