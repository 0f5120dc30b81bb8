"""What a masker asks of a strategy: what the encoder sees, and what fills a mask."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Generator, Tensor

from mmsalmask.checks import check_share
from mmsalmask.errors import InputError
from mmsalmask.parts import Part

Role = Literal["query", "hard_negative"]


@dataclass(frozen=True)
class View:
    """A batch of views of which something is to be hidden.

    Attributes:
        role: what they are to become.
        seen: what the encoder sees before masking, (N, 3, H, W).
        where: their foreground, bool (N, gh, gw); ``None`` without a localizer.
    """

    role: Role
    seen: Tensor
    where: Tensor | None = None


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


@dataclass(frozen=True, kw_only=True)
class Strategy(Part, ABC):
    """What the encoder sees and what fills a mask. Subclasses register themselves, see
    docs/add_a_fill.md.

    Args:
        focal_prob: share of images whose mask is a focal window instead of patches.
        channel_prob: of the others, share whose patches are drawn per channel.

    Attributes:
        filters: whether :meth:`see` high-pass filters the views: the images of every downstream
            task must then be filtered, too, and tools warn of those that are not.
        any_shape: whether masks may be focal windows and differ from channel to channel.
        mixes: whether the fill is another image, which the loss then asks for, too; only a query
            can be mixed, no key and no hard negative.
        needs_foreground: whether the fill depends on where the object is, so that the masker needs
            a localizer.

    Raises:
        InputError: for a probability outside [0, 1], or for another shape of mask than the strategy
            has: a blurred or averaged channel beside two untouched ones would be a coloured patch.
    """

    filters: ClassVar[bool] = False
    any_shape: ClassVar[bool] = False
    mixes: ClassVar[bool] = False
    needs_foreground: ClassVar[bool] = False

    focal_prob: float = 0.0
    channel_prob: float = 0.0

    def __post_init__(self) -> None:
        if self.any_shape:
            check_share("focal_prob", self.focal_prob)
            check_share("channel_prob", self.channel_prob)
        elif self.focal_prob != 0 or self.channel_prob != 0:
            raise InputError(
                f"{type(self).__name__} masks patches that all channels share; focal and "
                "channel-wise masks (focal_prob, channel_prob) go with HighPassNoise"
            )

    def see(self, views: Tensor) -> Tensor:
        """What the encoder sees of normalised views (N, 3, H, W), before masking."""
        return views

    @abstractmethod
    def fill(self, view: View, generator: Generator | None) -> Tensor:
        """What replaces masked pixels: a new tensor, broadcastable to (N, 3, H, W).

        The masker may write over it.

        Args:
            view: what is to be masked.
            generator: of the draws, on the device of the view; the global one where absent.
        """

    def paste(self, seen: Tensor, fill: Tensor, mask: Tensor) -> Tensor:
        """Seen views (N, 3, H, W) with the fill where the mask, bool (N, 1 or 3, H, W), is True."""
        # Fresh memory costs more than the selection: a fill of the view's size is written over.
        out = fill if fill.shape == seen.shape else None
        return torch.where(mask, fill, seen, out=out)

    def mixture(self, seen: Tensor, mask: Tensor) -> Mixture | None:
        """What the seen views are mixed of after :meth:`paste`, if the strategy mixes."""
        return None
