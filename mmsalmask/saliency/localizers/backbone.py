"""The paper's localizer: what a trained backbone responds to."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsalmask.checks import check_flag, is_integer
from mmsalmask.errors import InputError
from mmsalmask.saliency.localizer import Localizer, check_images


class BackboneSaliency(Localizer):
    """S = Σ_c F_c: the channel sum of a backbone's last feature map (Chin et al. 2024, sec. 3).

    ``size``, ``channels_last`` and ``dtype`` make it cheaper; benchmarks/cached_saliency.py
    measures how much of the foreground they keep.

    Args:
        backbone: normalised images (N, 3, H, W) → features (N, C, h, w), or a tuple or list of
            feature maps of which the last is taken. Its weights are float32.
        size: pixels of the longer side to which larger images are reduced before the backbone. The
            map is interpolated to as many cells as that of the whole image would have, so a patch
            grid that fitted still does.
        channels_last: run the backbone in that memory format, which convolutions prefer.
        dtype: ``"float16"`` or ``"bfloat16"`` to run the backbone under autocast, ``"float32"`` to
            run it without, also where training has it. Default: as training does.

    Raises:
        InputError: for a size below one pixel or another dtype.
    """

    # A backbone without weights: the mean of each channel over 2x2 pixels.
    example = dict(backbone=nn.AvgPool2d(2))

    def __init__(
        self,
        backbone: nn.Module,
        size: int | None = None,
        channels_last: bool = False,
        dtype: Literal["float32", "float16", "bfloat16"] | None = None,
    ) -> None:
        super().__init__()
        if size is not None and not is_integer(size, 1):
            raise InputError(f"size is the longer side in pixels, at least 1, got {size!r}")
        if dtype not in (None, "float32", "float16", "bfloat16"):
            raise InputError(f"dtype must be 'float32', 'float16' or 'bfloat16', got {dtype!r}")
        self.size = size
        channels_last = check_flag("channels_last", channels_last)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.dtype = dtype
        self.backbone = backbone.to(memory_format=self.memory_format)

    def forward(self, images: Tensor) -> Tensor:
        """Saliency (N, h, w) float32, ``h`` and ``w`` those of the last feature map.

        Raises:
            InputError: when the images are not (N, 3, H, W), or the backbone returns something
                else than feature maps, such as pooled features.
        """
        check_images(images)
        reduced = self._reduce(images.float())
        with self._autocast(images.device.type):
            features = self.backbone(reduced.contiguous(memory_format=self.memory_format))
        if isinstance(features, (tuple, list)) and features:
            features = features[-1]
        if not isinstance(features, Tensor) or features.ndim != 4:
            found = tuple(features.shape) if isinstance(features, Tensor) else type(features)
            raise InputError(
                f"the localizer's backbone must return feature maps (N, C, h, w), got {found}: "
                "use it without its pooling and its head"
            )
        # Half precision would round a sum over 2,048 channels to three digits.
        saliency = features.sum(1, dtype=torch.float32)
        if reduced.shape == images.shape:
            return saliency
        cells = [
            round(cell * full / small)
            for cell, full, small in zip(
                saliency.shape[1:], images.shape[2:], reduced.shape[2:], strict=True
            )
        ]
        return F.interpolate(saliency[:, None], cells, mode="bilinear")[:, 0]

    def _reduce(self, images: Tensor) -> Tensor:
        longer = max(images.shape[2:])
        if self.size is None or longer <= self.size:
            return images
        sides = [max(2, round(side * self.size / longer)) for side in images.shape[2:]]
        return F.interpolate(images, sides, mode="bilinear", antialias=True)

    def _autocast(self, device: str) -> AbstractContextManager:
        if self.dtype is None:
            return nullcontext()
        if self.dtype == "float32":
            return torch.autocast(device, enabled=False)
        return torch.autocast(device, dtype=getattr(torch, self.dtype))
