"""A localizer without weights: what the smooth spectrum of the image does not predict."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsalmask.checks import check_integer
from mmsalmask.device import without_autocast
from mmsalmask.saliency.localizer import Localizer, check_images, contrast


class SpectralResidualSaliency(Localizer):
    """Weight-free: what the smooth log spectrum does not predict (Hou & Zhang, CVPR 2007).

    R = log A − (log A averaged over 3×3 frequencies), S = blur |F⁻¹ exp(R + i·phase)|², for the
    grey image at 64×64 px. The blur is three 5×5 box filters, which together have σ = √6 px, the
    paper's 2.5. A constant image has no spectrum but its mean: its map is flat (all zero), which
    :func:`~mmsalmask.saliency.foreground` answers with "no foreground".

    Args:
        map_size: side of the reduced image and of the map.
    """

    example = dict(map_size=16)
    # Amplitudes below this share of the mean one are rounding; their phase means nothing.
    floor = 1e-4

    def __init__(self, map_size: int = 64) -> None:
        super().__init__()
        self.map_size = check_integer("map_size", map_size, 5)

    def forward(self, images: Tensor) -> Tensor:
        """Saliency (N, h, w) float32 of images (N, 3, H, W); h = w = ``map_size``."""
        check_images(images)
        with without_autocast(images.device):
            grey = F.adaptive_avg_pool2d(images.float().mean(1), self.map_size)
            spectrum = torch.fft.fft2(contrast(grey))
            spectrum[:, 0, 0] = 0  # exactly: the logarithm would magnify what rounding left of it
            amplitude = spectrum.abs()
            floor = self.floor * amplitude.mean((1, 2), keepdim=True)
            floor = floor + torch.finfo(amplitude.dtype).tiny
            log_amplitude = (amplitude + floor).log()
            around = F.avg_pool2d(F.pad(log_amplitude[:, None], (1,) * 4, mode="circular"), 3, 1)
            residual = (log_amplitude - around[:, 0]).exp() * spectrum / (amplitude + floor)
            saliency = torch.fft.ifft2(residual).abs().square()
            for _ in range(3):
                saliency = F.avg_pool2d(saliency, 5, 1, 2, count_include_pad=False)
            return saliency
