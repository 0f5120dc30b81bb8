"""What a view of contrastive learning goes through, for two views of each image of a batch.

The host draws everything before it launches anything, so it knows which views a step concerns and
gives the device those alone, without a look at a value that the device has.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from mmsalmask.augmentation.colours import (
    gaussian_blur_each,
    jitter,
    jitter_bands,
    solarize,
    to_grey,
    turn_place,
)
from mmsalmask.augmentation.crops import (
    check_interpolation,
    crop_and_resize,
    most_salient,
    other_places,
    random_boxes,
)
from mmsalmask.checks import check_integer, check_positive_range, check_share, is_number
from mmsalmask.device import upload, without_autocast
from mmsalmask.errors import InputError
from mmsalmask.saliency.crops import Crops
from mmsalmask.saliency.frozen import Frozen

# Brightness, contrast and saturation are factors, hue is added.
_NEUTRAL = (1.0, 1.0, 1.0, 0.0)
# Views are blurred in so many groups, from small σ to large, each with the window that it needs.
_BLURS = 3


@dataclass(frozen=True)
class Draws:
    """What was drawn for the view of each image of a batch, on the CPU.

    Attributes:
        box: (N, 4) x0, y0, x1, y1 in whole pixels of the full image.
        flip: (N,) bool.
        jittered: (N,) bool.
        factors: (N, 4) as in :func:`~mmsalmask.augmentation.jitter`; neutral where not jittered.
        order: (N, 4) of the four.
        grey, solarized: (N,) bool.
        sigma: (N,) of the blur, 0 where there is none.
    """

    box: Tensor
    flip: Tensor
    jittered: Tensor
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
        InputError: for an invalid share, probability or range, or an unknown interpolation.
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
            sizes: (N, 2) int64 on the CPU, height and width of the full images in pixels.
            generator: of the CPU; the global one where absent.
        """
        box = random_boxes(sizes, self.crop_area, self.crop_aspect, generator)
        uniform = torch.rand(14, len(sizes), generator=generator)
        flip, jittered, grey, blurred, solarized, spread, *rest = uniform
        jittered = jittered < self.jitter_prob
        factors = [
            torch.where(jittered, low + (high - low) * u, neutral)
            for (low, high), u, neutral in zip(self.factors, rest[:4], _NEUTRAL, strict=True)
        ]
        low, high = self.blur_sigma
        return Draws(
            box=box,
            flip=flip < self.flip_prob,
            jittered=jittered,
            factors=torch.stack(factors, 1),
            order=torch.stack(rest[4:], 1).argsort(1),
            grey=grey < self.grey_prob,
            solarized=solarized < self.solarize_prob,
            sigma=torch.where(blurred < self.blur_prob, low + (high - low) * spread, 0.0),
        )


def _join(parts: list[Draws]) -> Draws:
    """The draws of all views, one after the other."""
    return Draws(
        *(torch.cat([getattr(part, name.name) for part in parts]) for name in fields(Draws))
    )


def _change(views: Tensor, rows: Tensor, step: Callable[..., Tensor]) -> None:
    """Let a step replace the views of these rows, which the CPU holds, and touch no other."""
    if len(rows):
        rows = upload(rows, views.device)
        views.index_copy_(0, rows, step(views.index_select(0, rows)))


def _colour(views: Tensor, draws: Draws, largest_sigma: float) -> None:
    """Jitter, grey, blur and solarize the views for which it was drawn, in place.

    Of views that are no colours, all but brightness, contrast and blur is left out.
    """
    if views.shape[1] != 3:
        rows = draws.jittered.nonzero()[:, 0]
        _change(views, rows, lambda part: jitter_bands(part, draws.factors[rows]))
        _blur(views, draws, largest_sigma)
        return
    order = draws.order
    rows = draws.jittered.nonzero()[:, 0]
    rows = rows[turn_place(order[rows]).argsort(stable=True)]
    _change(views, rows, lambda part: jitter(part, draws.factors[rows], order[rows]))
    _change(views, draws.grey.nonzero()[:, 0], lambda part: to_grey(part).expand_as(part))
    _blur(views, draws, largest_sigma)
    _change(views, draws.solarized.nonzero()[:, 0], solarize)


def _blur(views: Tensor, draws: Draws, largest_sigma: float) -> None:
    """Blur the views for which it was drawn, in place."""
    rows = draws.sigma.argsort(stable=True)[int((draws.sigma == 0).sum()) :]
    for group in rows.chunk(_BLURS):
        sigma = draws.sigma[group]
        _change(
            views, group, lambda part, sigma=sigma: gaussian_blur_each(part, sigma, largest_sigma)
        )


def _settled(views: Tensor, images: Tensor) -> Tensor:
    """Views without what bicubic resizing overshoots, the channels of each one behind the other.

    Colours stay in [0, 255]; other channels in the range that their image has there.
    """
    out = views.new_empty(views.shape)
    if images.shape[1] == 3:
        return torch.clamp(views, 0, 255, out=out)
    low, high = (
        edge((2, 3), keepdim=True).repeat(len(views) // len(images), 1, 1, 1)
        for edge in (images.amin, images.amax)
    )
    return torch.clamp(views, low, high, out=out)


class DeviceAugmentation:
    """Two views of each image, drawn independently, from one copy of it on the device.

    The distributions are those of the CPU pipelines (configs/_base_/datasets), rendered on the
    device that holds the images, in float32 even under autocast. What differs from Pillow: no
    rounding to whole levels between the steps, a true Gaussian blur, and pixels that come from
    images squeezed to one size (see :class:`~mmsalmask.data.LoadWhole`).

    Random numbers come from the CPU's global generator, or from one that is given.

    With a localizer, crops lie on the object: of the places that are drawn for a crop, area and
    aspect being what they are without, it takes the most salient.

    Args:
        view: what makes the views, a :class:`RandomView`.
        key: what makes the second one, where it is made otherwise (BYOL).
        localizer: a :class:`~mmsalmask.saliency.Localizer` without weights, which looks at the
            whole images; ``None`` for crops anywhere.
        places: how many are drawn for each crop where there is a localizer.

    Raises:
        InputError: if there is no view, the two views differ in size or interpolation, or the
            localizer is none, looks at crops or has weights.
    """

    def __init__(
        self,
        view: RandomView,
        key: RandomView | None = None,
        localizer: nn.Module | None = None,
        places: int = 4,
    ) -> None:
        for name, one in (("view", view), ("key", view if key is None else key)):
            if not isinstance(one, RandomView):
                raise InputError(f"{name} of DeviceAugmentation must be a RandomView, got {one!r}")
        self.views = (view, view if key is None else key)
        if view.size != self.views[1].size:
            raise InputError(
                f"the two views must have one size, got {view.size} and {self.views[1].size} px"
            )
        if view.interpolation != self.views[1].interpolation:
            raise InputError(
                "the two views must have one interpolation, got "
                f"{view.interpolation} and {self.views[1].interpolation}"
            )
        self.localizer = None if localizer is None else Frozen(localizer)
        if self.localizer is not None and self.localizer.needs == "crops":
            raise InputError(
                "the localizer of DeviceAugmentation looks at whole images, which "
                f"{type(localizer).__name__} does not: take one without weights"
            )
        if localizer is not None and next(localizer.parameters(), None) is not None:
            raise InputError(
                "the localizer of DeviceAugmentation sees images before they are normalised, and "
                f"{type(localizer).__name__} has weights that expect them normalised: take one "
                "without weights"
            )
        self.places = check_integer("places", places)

    @torch.no_grad()
    def __call__(
        self, images: Tensor, index: Tensor, sizes: Tensor, generator: Generator | None = None
    ) -> tuple[list[Tensor], tuple[Crops, ...]]:
        """Make two views of a batch.

        Args:
            images: (N, C, S, T), whole upright images squeezed to one size: RGB with levels in
                [0, 255], uint8 or float32, or any other number of channels of any range, float32,
                of which brightness, contrast and blur alone are changed.
            index: (N,) int64 on the device of the images, their positions in their dataset.
            sizes: (N, 2) int64 on the CPU, the height and width that the images had.
            generator: of the CPU.

        Returns:
            Two views, (N, C, size, size) float32, RGB in [0, 255] or other channels of any range,
            and where they were cut from.
        """
        draws = _join([view.draw(sizes, generator) for view in self.views])
        full = sizes.flip(1).repeat(2, 2)  # width, height, width, height
        height, width = images.shape[2:]
        stored = draws.box.new_tensor([width, height, width, height])
        device, boxes, flip = images.device, draws.box, draws.flip
        with without_autocast(device):
            if self.localizer is not None:
                more = other_places(boxes, sizes.repeat(2, 1), self.places - 1, generator)
                boxes = upload(torch.cat([boxes[:, None], more], 1), device)
                full, stored = upload(full, device), upload(stored, device)
                flip = upload(flip, device)
                chosen = most_salient(boxes / full[:, None], self.localizer(images.float()))
                boxes = boxes.take_along_dim(chosen[:, None, None], 1)[:, 0]
            views = crop_and_resize(
                images,
                # Multiplied first: where an image kept its size, its box stays whole.
                boxes * stored / full,
                flip,
                self.views[0].size,
                self.views[0].interpolation,
            )
            views = _settled(views, images)
            _colour(views, draws, max(view.blur_sigma[1] for view in self.views))
        shares, mirrored = upload(boxes / full, device), upload(flip, device)
        cut = zip(shares.chunk(2), mirrored.chunk(2), strict=True)
        crops = tuple(Crops(index, *part) for part in cut)
        return list(views.chunk(2)), crops
