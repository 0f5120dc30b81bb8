"""What a view of contrastive learning goes through, for two views of each image of a batch."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from mmsalmask.augmentation.colours import gaussian_blur_each, jitter, solarize, to_grey
from mmsalmask.augmentation.crops import check_interpolation, crop_and_resize, random_boxes
from mmsalmask.checks import check_integer, check_positive_range, check_share, is_number
from mmsalmask.errors import InputError
from mmsalmask.saliency.crops import Crops

# Brightness, contrast and saturation are factors, hue is added.
_NEUTRAL = (1.0, 1.0, 1.0, 0.0)


@dataclass(frozen=True)
class Draws:
    """What was drawn for the view of each image of a batch.

    Attributes:
        box: (N, 4) x0, y0, x1, y1 in whole pixels of the full image.
        flip: (N,) bool.
        factors: (N, 4) as in :func:`~mmsalmask.augmentation.jitter`; neutral where not jittered.
        order: (N, 4) of the four.
        grey, solarized: (N,) bool.
        sigma: (N,) of the blur, 0 where there is none.
    """

    box: Tensor
    flip: Tensor
    factors: Tensor
    order: Tensor
    grey: Tensor
    solarized: Tensor
    sigma: Tensor


class RandomView:
    """One random view of each image: crop, colour jitter, greyscale, blur, solarization, flip.

    Every step is drawn for each image on its own. Defaults are MoCo v2's (Chen et al. 2020).

    Args:
        size: height and width of the view in pixels.
        crop_area: range of the crop's share of the image.
        crop_aspect: range of the crop's width / height.
        interpolation: ``bicubic`` or ``bilinear``. The pipelines on the CPU cut bilinearly out of
            the full photo; out of an image squeezed to 1.3 to 1.5 times the view's size, bicubic
            gives as sharp a view on average, where bilinear would lose a quarter of the mean
            square difference of neighbouring pixels.
        brightness, contrast, saturation: a factor is drawn from [max(0, 1 − x), 1 + x].
        hue: turns are drawn from [−hue, hue], in full circles; at most 0.5.
        jitter_prob: of these four together, in random order.
        grey_prob: of a grey view.
        blur_sigma: range of the Gaussian's σ in pixels, up to the view's size.
        blur_prob: of a blurred view.
        solarize_prob: of a solarized view, inverted from the level 128 on.
        flip_prob: of a view mirrored left to right.

    Raises:
        InputError: for a share, probability or range that is none, or an unknown interpolation.
    """

    def __init__(
        self,
        size: int = 224,
        crop_area: tuple[float, float] = (0.2, 1.0),
        crop_aspect: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: Literal["bilinear", "bicubic"] = "bicubic",
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.1,
        jitter_prob: float = 0.8,
        grey_prob: float = 0.2,
        blur_sigma: tuple[float, float] = (0.1, 2.0),
        blur_prob: float = 0.5,
        solarize_prob: float = 0.0,
        flip_prob: float = 0.5,
    ) -> None:
        self.size = check_integer("size", size)
        self._check_strengths(brightness, contrast, saturation, hue)
        self.crop_area = check_positive_range("crop_area", crop_area, 1)
        self.crop_aspect = check_positive_range("crop_aspect", crop_aspect)
        self.interpolation = interpolation
        self.factors = tuple((max(0.0, 1 - x), 1 + x) for x in (brightness, contrast, saturation))
        self.factors += ((-hue, hue),)
        self.jitter_prob = check_share("jitter_prob", jitter_prob)
        self.grey_prob = check_share("grey_prob", grey_prob)
        # A Gaussian wider than the view would leave one colour, and a window to fill the memory.
        self.blur_sigma = check_positive_range("blur_sigma", blur_sigma, size)
        self.blur_prob = check_share("blur_prob", blur_prob)
        self.solarize_prob = check_share("solarize_prob", solarize_prob)
        self.flip_prob = check_share("flip_prob", flip_prob)
        check_interpolation(interpolation)

    @staticmethod
    def _check_strengths(*strengths: float) -> None:
        # A factor of a million makes a pixel black or white, as any larger one would.
        limits = (1e6, 1e6, 1e6, 0.5)
        if not all(is_number(x, 0, most) for x, most in zip(strengths, limits, strict=True)):
            raise InputError(
                "brightness, contrast, saturation and hue must be numbers that are not negative, "
                f"nor hue above 0.5, got {strengths}"
            )

    def draw(self, sizes: Tensor, generator: Generator | None = None) -> Draws:
        """Draw a view for each image.

        Args:
            sizes: (N, 2) int64, height and width of the full images in pixels.
            generator: on the device of ``sizes``; the global one where absent.
        """
        number, device = len(sizes), sizes.device
        box = random_boxes(sizes, self.crop_area, self.crop_aspect, generator)
        uniform = torch.rand(14, number, generator=generator, device=device)
        flip, jittered, grey, blurred, solarized, spread, *rest = uniform
        factors = [
            torch.where(jittered < self.jitter_prob, low + (high - low) * u, neutral)
            for (low, high), u, neutral in zip(self.factors, rest[:4], _NEUTRAL, strict=True)
        ]
        low, high = self.blur_sigma
        return Draws(
            box=box,
            flip=flip < self.flip_prob,
            factors=torch.stack(factors, 1),
            order=torch.stack(rest[4:], 1).argsort(1),
            grey=grey < self.grey_prob,
            solarized=solarized < self.solarize_prob,
            sigma=torch.where(blurred < self.blur_prob, low + (high - low) * spread, 0.0),
        )

    def render(self, images: Tensor, sizes: Tensor, draws: Draws) -> Tensor:
        """Make the views that were drawn.

        Args:
            images: (N, 3, S, T) float32 RGB in [0, 255], whole images squeezed to one size.
            sizes: (N, 2), their height and width before that.

        Returns:
            (N, 3, size, size) float32 RGB in [0, 255].
        """
        height, width = sizes.float()[:, :, None].unbind(1)
        box = torch.empty_like(draws.box)
        # Multiplied first: where an image kept its size, its box stays whole.
        box[:, 0::2] = draws.box[:, 0::2] * images.shape[3] / width
        box[:, 1::2] = draws.box[:, 1::2] * images.shape[2] / height
        views = crop_and_resize(images, box, draws.flip, self.size, self.interpolation)
        views.clamp_(0, 255)  # bicubic overshoots
        if self.jitter_prob:
            views = jitter(views, draws.factors, draws.order)
        if self.grey_prob:
            views = torch.where(draws.grey[:, None, None, None], to_grey(views), views)
        if self.blur_prob:
            views = gaussian_blur_each(views, draws.sigma, self.blur_sigma[1])
        if self.solarize_prob:
            views = torch.where(draws.solarized[:, None, None, None], solarize(views), views)
        return views


class DeviceAugmentation:
    """Two views of each image, drawn independently, from one copy of it on the device.

    The distributions are those of the CPU pipelines (configs/_base_/datasets), on the device that
    holds the images, in float32 even under autocast. What differs from Pillow: no rounding to whole
    levels between the steps, a true Gaussian blur, and pixels that come from images squeezed to one
    size (see :class:`~mmsalmask.datasets.LoadWhole`).

    Random numbers come from the device's global generator, or from one that is given.

    Args:
        view: what makes the views, a :class:`RandomView`.
        key: what makes the second one, where it is made otherwise (BYOL).

    Raises:
        InputError: if there is no view, or the two views differ in size.
    """

    def __init__(self, view: RandomView, key: RandomView | None = None) -> None:
        for name, one in (("view", view), ("key", view if key is None else key)):
            if not isinstance(one, RandomView):
                raise InputError(f"{name} of DeviceAugmentation must be a RandomView, got {one!r}")
        self.views = (view, view if key is None else key)
        if view.size != self.views[1].size:
            raise InputError(
                f"the two views must have one size, got {view.size} and {self.views[1].size} px"
            )

    @torch.no_grad()
    def __call__(
        self, images: Tensor, index: Tensor, sizes: Tensor, generator: Generator | None = None
    ) -> tuple[list[Tensor], tuple[Crops, Crops]]:
        """Make two views of a batch.

        Args:
            images: (N, 3, S, T) uint8 RGB, whole upright images squeezed to one size.
            index: (N,) int64, the images' positions in their dataset.
            sizes: (N, 2) int64, the height and width that the images had.
            generator: on the device of the images.

        Returns:
            Two views, (N, 3, size, size) float32 RGB in [0, 255], and where they were cut from.
        """
        with torch.autocast(images.device.type, enabled=False):
            pixels = images.float()
            shares = sizes.flip(1).float().repeat(1, 2)  # width, height, width, height
            views, crops = [], []
            for view in self.views:
                draws = view.draw(sizes, generator)
                views.append(view.render(pixels, sizes, draws))
                crops.append(Crops(index, draws.box / shares, draws.flip))
        return views, tuple(crops)
