"""The paper's first strategy: high-pass filtered views, masked with noise."""

from dataclasses import dataclass, field

from torch import Generator, Tensor

from mmsalmask.checks import is_number
from mmsalmask.errors import InputError
from mmsalmask.masking.fills import noise_fill
from mmsalmask.masking.filters import HIGH_PASS_KERNEL, HIGH_PASS_SIGMA, check_kernel, high_pass
from mmsalmask.masking.strategy import Strategy, View


@dataclass(frozen=True)
class HighPassNoise(Strategy):
    """High-pass filtered views, masked with Gaussian noise in three shapes of mask.

    Removing low frequencies removes the edges that a mask would draw. All views that any encoder
    sees are filtered, masked or not, and so must be the images of every downstream task.

    Args:
        kernel_size, sigma: of the Gaussian whose blur is subtracted, in pixels.
        query_std, hard_negative_std: of the noise, in normalised units.
        focal_prob: share of images with a focal mask. The query keeps a random window of 200/224 of
            each side and loses all outside; the hard negative loses a random window of 130/224.
        channel_prob: of the other images, share with patches drawn per channel.

    Raises:
        InputError: for an even kernel, σ ≤ 0, a negative std or a probability outside [0, 1].
    """

    filters = True
    any_shape = True
    example = dict(kernel_size=5, sigma=2.0)

    kernel_size: int = HIGH_PASS_KERNEL
    sigma: float = HIGH_PASS_SIGMA
    query_std: float = 0.18
    hard_negative_std: float = 0.14
    focal_prob: float = field(default=0.2, kw_only=True)
    channel_prob: float = field(default=0.7, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kernel(self.kernel_size, self.sigma)
        if not (is_number(self.query_std, 0) and is_number(self.hard_negative_std, 0)):
            raise InputError(
                "query_std and hard_negative_std are numbers that must not be negative, got "
                f"{self.query_std!r} and {self.hard_negative_std!r}"
            )

    def see(self, views: Tensor) -> Tensor:
        return high_pass(views, self.kernel_size, self.sigma)

    def fill(self, view: View, generator: Generator | None) -> Tensor:
        std = self.query_std if view.role == "query" else self.hard_negative_std
        return noise_fill(view.seen, std, generator)
