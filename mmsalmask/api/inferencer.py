"""OpenMMLab's way to features: an inferencer."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmpretrain.apis import FeatureExtractor as _Base
from PIL import Image
from torch import Tensor

from mmsalmask.api.devices import choose_device
from mmsalmask.api.models import as_encoder, list_models
from mmsalmask.config.wording import ask, nearest
from mmsalmask.errors import InputError

Input = str | os.PathLike | np.ndarray


class FeatureExtractor(_Base):
    """mmpretrain's ``FeatureExtractor`` for the encoders of this project.

    It is called as mmpretrain's is; preprocessing, the high-pass filter included, is that of the
    encoder instead of a test pipeline, and features are pooled.

    Args:
        model: a name of :func:`mmsalmask.list_models`, a checkpoint, a run or an encoder.
        device: ``None`` for the first GPU, where there is one, else the CPU.

    Raises:
        InputError: there is no such model or device.

    Example:
        >>> import mmsalmask as sm
        >>> extract = sm.FeatureExtractor("mocov2_resnet18-w16_1xb128-coslr-50e_imagenette-64px")
        >>> extract(photos + "/00.png")[0].shape
        torch.Size([128])
    """

    def __init__(self, model: Any, device: str | None = None) -> None:
        # Not mmpretrain's: it builds a whole model of a config with a test pipeline.
        self.model = as_encoder(model).to(choose_device(device)).eval()
        self.config = self.model.config
        self.pipeline = self._init_pipeline(self.config)

    def _init_pipeline(self, cfg: Any) -> Any:
        return self.model.transform

    def __call__(
        self, inputs: Input | Sequence[Input], batch_size: int = 1, **kwargs: Any
    ) -> list[Tensor]:
        """Features (C,) of each image: paths, or BGR arrays (H, W, 3) uint8 as mmcv reads them.

        Raises:
            mmsalmask.data.BrokenImage: an image cannot be read.
        """
        return super().__call__(inputs, batch_size, **kwargs)

    def preprocess(self, inputs: list[Input], batch_size: int = 1) -> Iterator[Tensor]:
        """Batches (N, 3, S, S) as the encoder wants them."""
        yield from map(torch.stack, self._get_chunk_data(map(self._see, inputs), batch_size))

    def _see(self, image: Input) -> Tensor:
        if isinstance(image, np.ndarray):
            return self.pipeline(Image.fromarray(np.ascontiguousarray(image[..., ::-1])))
        return self.pipeline(image)

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> list[Tensor]:
        """Features of a batch, on the CPU."""
        return list(self.model(inputs.to(self.model.device)).cpu())

    @staticmethod
    def list_models(pattern: str | None = None) -> list[str]:
        """The names of the encoders that come with this project, or those a wildcard fits.

        Raises:
            InputError: it fits none.
        """
        from fnmatch import fnmatch

        names = list(list_models())
        found = [name for name in names if pattern is None or fnmatch(name, pattern)]
        if not found:
            near = nearest(str(pattern), {name: name for name in names}, cutoff=0.3)
            raise InputError(f"no model fits '{pattern}'{ask(near)}")
        return found
