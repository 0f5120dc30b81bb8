"""The paper's three strategies: what the encoder sees, which shapes a mask takes, what fills it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Generator, Tensor

from mmsalmask.checks import check_share, is_number
from mmsalmask.errors import InputError
from mmsalmask.masking.fills import blur_fill, mean_fill, noise_fill
from mmsalmask.masking.filters import check_kernel, high_pass

Role = Literal["query", "hard_negative"]


class Mixture(NamedTuple):
    """Views that are mixed of two images each, and what a loss needs to ask for both.

    Attributes:
        kept: share of a view's pixels that are still its own, float32 (N,) in [0, 1].
        partner: which of the N images shows in the others, int64 (N,).
        clean: the views before mixing, (N, 3, H, W), where the loss contrasts them, too.
    """

    kept: Tensor
    partner: Tensor
    clean: Tensor | None


class Strategy(ABC):
    """What :class:`mmsalmask.masking.SaliencyMasker` asks of a strategy.

    Attributes:
        focal_prob: share of images whose mask is a focal window instead of patches.
        channel_prob: of the others, share whose patches are drawn per channel.
        mixes: whether the fill is another image, which the loss then asks for, too.
    """

    focal_prob: float = 0.0
    channel_prob: float = 0.0
    mixes: ClassVar[bool] = False

    def see(self, views: Tensor) -> Tensor:
        """What the encoder sees of normalised views (N, 3, H, W), before masking."""
        return views

    @abstractmethod
    def fill(self, seen: Tensor, role: Role, generator: Generator | None) -> Tensor:
        """What replaces masked pixels of seen views: a new tensor, broadcastable to (N, 3, H, W).

        The masker may write over it.
        """

    def paste(self, seen: Tensor, fill: Tensor, mask: Tensor) -> Tensor:
        """Seen views (N, 3, H, W) with the fill where the mask, bool (N, 1 or 3, H, W), is True."""
        # Fresh memory costs more than the selection: a fill of the view's size is written over.
        out = fill if fill.shape == seen.shape else None
        return torch.where(mask, fill, seen, out=out)

    def mixture(self, seen: Tensor, mask: Tensor) -> Mixture | None:
        """What the seen views are mixed of after :meth:`paste`, if the strategy mixes."""
        return None


def refuse_other_shapes(strategy: Strategy) -> None:
    """A blurred or averaged channel beside two untouched ones would be a coloured patch.

    Raises:
        InputError: for a strategy with focal or channel-wise masks.
    """
    if strategy.focal_prob != 0 or strategy.channel_prob != 0:
        raise InputError(
            f"{type(strategy).__name__} masks patches that all channels share; focal and "
            "channel-wise masks (focal_prob, channel_prob) go with HighPassNoise"
        )


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

    kernel_size: int = 11
    sigma: float = 5.0
    query_std: float = 0.18
    hard_negative_std: float = 0.14
    focal_prob: float = 0.2
    channel_prob: float = 0.7

    def __post_init__(self) -> None:
        check_kernel(self.kernel_size, self.sigma)
        check_share("focal_prob", self.focal_prob)
        check_share("channel_prob", self.channel_prob)
        if not (is_number(self.query_std, 0) and is_number(self.hard_negative_std, 0)):
            raise InputError(
                "query_std and hard_negative_std are numbers that must not be negative, got "
                f"{self.query_std!r} and {self.hard_negative_std!r}"
            )

    def see(self, views: Tensor) -> Tensor:
        return high_pass(views, self.kernel_size, self.sigma)

    def fill(self, seen: Tensor, role: Role, generator: Generator | None) -> Tensor:
        std = self.query_std if role == "query" else self.hard_negative_std
        return noise_fill(seen, std, generator)


@dataclass(frozen=True)
class StrongBlur(Strategy):
    """Plain views; a masked patch shows the same view strongly blurred. Patches only.

    Raises:
        InputError: for an even kernel, σ ≤ 0, or another shape of mask.
    """

    kernel_size: int = 31
    sigma: float = 10.0
    focal_prob: float = 0.0
    channel_prob: float = 0.0

    def __post_init__(self) -> None:
        check_kernel(self.kernel_size, self.sigma)
        refuse_other_shapes(self)

    def fill(self, seen: Tensor, role: Role, generator: Generator | None) -> Tensor:
        return blur_fill(seen, self.kernel_size, self.sigma)


@dataclass(frozen=True)
class MeanFill(Strategy):
    """Plain views; a masked patch shows the view's own mean colour. Patches only.

    Raises:
        InputError: for another shape of mask.
    """

    focal_prob: float = 0.0
    channel_prob: float = 0.0

    def __post_init__(self) -> None:
        refuse_other_shapes(self)

    def fill(self, seen: Tensor, role: Role, generator: Generator | None) -> Tensor:
        return mean_fill(seen)
