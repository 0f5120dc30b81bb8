"""What a masker asks of a localizer."""

from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from mmsalmask.errors import InputError
from mmsalmask.parts import Part
from mmsalmask.saliency.crops import Crops
from mmsalmask.saliency.foreground import pool_to_grid

# A contrast below this share of the mean is what float32 makes of a constant.
_ROUNDING = 1e-6


class Localizer(Part, nn.Module):
    """Says where the object is. Subclasses register themselves, see docs/add_a_localizer.md.

    One that looks at the views implements ``forward``: images (N, 3, H, W), of any floating dtype
    and size, raw or normalised → saliency (N, h, w) float32, higher on the object. Any other
    ``nn.Module`` that does so serves a masker, too; it only is in no config and no table. One that
    ``needs`` crops implements :meth:`locate` instead.

    Attributes:
        needs: what :meth:`locate` looks at: the ``"views"`` themselves, the ``"crops"`` that say
            which part of which image of a dataset they are, or ``"nothing"``.
    """

    needs: ClassVar[Literal["views", "crops", "nothing"]] = "views"

    def locate(self, views: Tensor, crops: Crops | None, grid: tuple[int, int]) -> Tensor:
        """Saliency (N, gh, gw) float32 on the patch grid of views (N, 3, H, W).

        Args:
            views: normalised.
            crops: where they were cut from, for one that needs crops and if that is known.
            grid: rows and columns of patches.

        Raises:
            InputError: for a map coarser than the grid, or crops that are needed and not known.
        """
        return pool_to_grid(self(views), grid)

    def check_grid(self, grid: tuple[int, int]) -> None:
        """Refuse a patch grid that is too fine, where that is known before a view is seen."""

    def check_source(self, **facts: Any) -> None:
        """Refuse images that are not those of stored maps; most localizers store none.

        Args:
            facts: JSON values that say what the images are: ``dataset``, ``normalisation``.
        """


def check_images(images: Tensor, channels: int | None = None) -> None:
    """Refuse what is no batch of images, of so many channels if that is given.

    Raises:
        InputError: with the shape.
    """
    fits = images.ndim == 4 and min(images.shape[1:]) > 0 and min(images.shape[2:]) > 1
    if not fits or channels not in (None, images.shape[1]):
        raise InputError(
            f"a localizer needs images of shape (N, {channels or 'C'}, H, W) with at least 2x2 "
            f"pixels, got {tuple(images.shape)}"
        )


def contrast(values: Tensor) -> Tensor:
    """Values (..., h, w) minus their mean, exactly 0 where only float32 rounding is left of it."""
    mean = values.mean((-2, -1), keepdim=True)
    difference = values - mean
    return difference * (difference.abs() > _ROUNDING * mean.abs())
