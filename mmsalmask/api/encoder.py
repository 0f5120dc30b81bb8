"""A frozen or fine-tunable encoder that carries how it wants its images."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image
from torch import Tensor, nn

from mmsalmask.checkpoint import is_high_pass, view_size
from mmsalmask.checks import check_integer
from mmsalmask.data.bands import BAND_EXTENSIONS
from mmsalmask.data.loading import EXTENSIONS, to_rgb, upright
from mmsalmask.errors import InputError
from mmsalmask.evaluation.features import EncoderView, bands_of
from mmsalmask.evaluation.labelled import cut_centre, read_centre

# ImageNet's, RGB in 0 … 255, as every recipe here has them.
IMAGENET: dict[str, Any] = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)


class Encoder(nn.Module):
    """Maps normalised images (N, 3, H, W) to pooled features (N, C), float32.

    It is a module like any other: ``.to(device)``, ``.train()``, gradients, ``state_dict()``. What
    its images have to look like is written on it, and :attr:`transform` makes them so.

    Args:
        backbone: maps images to a feature map, or to a tuple of them of which the last counts.
        config: with ``model.data_preprocessor`` and, where there is one, the training pipeline.
        name: of the encoder, for messages.

    Attributes:
        mean, std: per channel, RGB, of pixels in [0, 1], as torchvision states them.
        size: side in pixels of the views it learned from.
        high_pass: whether it learned from high-pass filtered views; its images must be then, too.
        rgb: the order of the channels, RGB if true, else BGR.
        channels: that its images are read with, by ``mmsalmask.LoadBands``; ``None`` for 8-bit
            colours.
        extensions: of the files that are images to it.

    Example:
        >>> import mmsalmask as sm
        >>> from PIL import Image
        >>> model = sm.get_model("resnet18", pretrained=False)
        >>> image = Image.new("RGB", (320, 240), "teal")
        >>> model.transform(image).shape
        torch.Size([3, 224, 224])
        >>> model(model.transform(image)[None]).shape
        torch.Size([1, 512])
    """

    def __init__(self, backbone: nn.Module, config: Mapping[str, Any], name: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.name = name
        self.config = Config(dict(config))
        self.view = EncoderView(self.config)
        self.high_pass = is_high_pass(self.config)
        self.rgb = bool(self.view.rgb)
        self.size = view_size(self.config)
        self.channels = bands_of(self.config)
        self.extensions = EXTENSIONS if self.channels is None else BAND_EXTENSIONS
        mean = IMAGENET["mean"] if self.view.mean is None else self.view.mean.flatten().tolist()
        std = IMAGENET["std"] if self.view.std is None else self.view.std.flatten().tolist()
        turned = len(mean) == 3 and not self.rgb
        ordered = (mean[::-1], std[::-1]) if turned else (mean, std)
        self.mean, self.std = (tuple(round(value / 255, 6) for value in part) for part in ordered)

    @property
    def transform(self) -> "Transform":
        """From a picture to what :meth:`forward` takes: crop, normalisation, filter."""
        return Transform(self.view, self.size, self.channels)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features (N, C) of images (N, 3, H, W) as :attr:`transform` makes them."""
        maps = self.backbone(images)
        last = maps[-1] if isinstance(maps, tuple | list) else maps
        return last.float().mean((2, 3))

    def side(self, size: int | None) -> int:
        """The side of a crop: the given one, or that of the encoder's views.

        Raises:
            InputError: it is no positive number of pixels.
        """
        return check_integer("size", self.size if size is None else size)

    def extra_repr(self) -> str:
        """Name, size and filter."""
        return f"{self.name}, size={self.size}, high_pass={self.high_pass}"


@contextmanager
def working(encoder: Encoder, place: torch.device) -> Iterator[None]:
    """Have an encoder evaluate on a device, without gradients; afterwards it is as it was.

    Not by the inference mode, in which moved weights become tensors that cannot be trained.
    """
    before, training = encoder.device, encoder.training
    encoder.to(place).eval()
    try:
        with torch.no_grad():
            yield
    finally:
        encoder.to(before).train(training)


class Transform:
    """From a picture to an encoder's input: float32 (3, S, S), or as many channels as it has.

    The shorter side is resized to 8/7 of ``size``, the centre cut out, normalised and, where the
    encoder learned so, high-pass filtered.

    Args:
        view: of the encoder.
        size: S in pixels; another one than the encoder's may be given.
        channels: of the encoder, which takes paths alone where they are told.
    """

    def __init__(self, view: EncoderView, size: int, channels: int | None = None) -> None:
        self.view = view
        self.size = size
        self.channels = channels

    def __call__(self, image: Image.Image | str | Path) -> Tensor:
        """Take a PIL image or the path of one; see :func:`mmsalmask.data.read_image`."""
        if not isinstance(image, Image.Image | str | Path):
            raise InputError(
                "an encoder transforms a PIL image or the path of one, not "
                f"{type(image).__name__}: take PIL.Image.fromarray of an RGB array"
            )
        if not isinstance(image, Image.Image):
            return self.view(read_centre(image, self.size, self.channels)[None])[0]
        if self.channels is not None:
            raise InputError(
                f"this encoder sees images of {self.channels} channels with all of their depth: "
                "give the path of a file"
            )
        try:
            shown = Image.fromarray(upright(np.asarray(to_rgb(image)), image))
        except ValueError as error:
            raise InputError(f"the picture has no colours to transform: {error}") from error
        return self.view(cut_centre(shown, self.size)[None])[0]

    def __repr__(self) -> str:
        return f"Transform(size={self.size}, filter={self.view.filter is not None})"
