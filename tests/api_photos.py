"""Photos and a tiny net for the tests of the public Python."""

from pathlib import Path

import numpy as np
from PIL import Image

TINY = {
    "model.queue_len": 16,
    "model.backbone.base_channels": 8,
    "model.backbone.stem_channels": 8,
    "model.neck.in_channels": 64,
    "model.neck.hid_channels": 16,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
}


def draw(folder: Path, count: int, seed: int = 0) -> Path:
    """Photos of a coloured square on another colour."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = np.full((40, 48, 3), random.integers(0, 256, 3), dtype=np.uint8)
        top, left = random.integers(4, 16, 2)
        pixels[top : top + 18, left : left + 22] = random.integers(0, 256, 3)
        noise = random.integers(-9, 10, pixels.shape)
        pixels = (pixels + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return folder
