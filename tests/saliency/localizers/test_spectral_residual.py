"""What the smooth spectrum does not predict: the formula in NumPy."""

import numpy as np
import pytest
import references
import torch
from registered import scene

from mmsalmask.saliency import SpectralResidualSaliency, foreground, pool_to_grid


def reference(localizer, views, crops, grid):
    size, maps = localizer.map_size, []
    for image in views:
        grey = references.pool(image.mean(0), (size, size))
        spectrum = np.fft.fft2(grey - grey.mean())
        spectrum[0, 0] = 0
        amplitude = np.abs(spectrum)
        floor = 1e-4 * amplitude.mean()
        log = np.log(amplitude + floor)
        shifts = [np.roll(log, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        weight = amplitude / (amplitude + floor)
        residual = np.exp(log - sum(shifts) / 9 + 1j * np.angle(spectrum)) * weight
        saliency = np.abs(np.fft.ifft2(residual)) ** 2
        for _ in range(3):
            blurred = np.zeros_like(saliency)
            for y in range(size):
                for x in range(size):
                    window = saliency[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
                    blurred[y, x] = window.mean()
            saliency = blurred
        maps.append(references.pool(saliency, grid))
    return np.stack(maps)


def test_the_spectral_residual_equals_the_formula_in_numpy():
    images, localizer = scene(3, 64, 64), SpectralResidualSaliency()
    expected = reference(localizer, images.double().numpy(), None, (64, 64))
    expected = torch.from_numpy(expected).float()
    torch.testing.assert_close(localizer(images), expected, rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize("colour", [(0, 0, 0), (1, 1, 1), (0.3, 0.3, 0.3), (0.1, 0.7, 0.33)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_constant_image_has_no_foreground(colour, dtype):
    images = torch.tensor(colour).view(1, 3, 1, 1).expand(2, 3, 97, 61).to(dtype)
    assert not foreground(pool_to_grid(SpectralResidualSaliency()(images), 7)).any()
