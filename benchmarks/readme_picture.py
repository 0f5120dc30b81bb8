"""The README's picture of the masks: three strategies on three photos of Caltech-101.

    python benchmarks/readme_picture.py [--out docs/masks.png] [--seed 1]

Unlike in training, view and hard negative are of one crop, the centre of the photo, so that they
can be compared: tools/browse_masks.py shows what an encoder really gets.
"""

import argparse
import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import torch
from mmengine.registry import DefaultScope
from photos import ROOT, find_photos
from PIL import Image, ImageOps
from torch import Tensor

sys.path.insert(0, str(ROOT))

from mmsalmask.config import load_config
from mmsalmask.registry import MODELS
from mmsalmask.visualization.gallery import (
    Column,
    cover_background,
    describe,
    draw_columns,
    to_heat,
    to_photos,
)

PHOTOS = ("elephant/image_0004", "sunflower/image_0005", "panda/image_0007")
STRATEGIES = {"highpass": "high-pass", "blur": "strong blur", "mean": "mean"}
SIDE = 112


def read_photos() -> Tensor:
    """The centres of the photos, uint8 BGR (N, 3, SIDE, SIDE)."""
    if (archive := find_photos("caltech101_112")) is None:
        sys.exit("caltech101_112.tar is not here; set MMSALMASK_PHOTOS to the folder it lies in")
    with tarfile.open(archive) as tar:
        files = [tar.extractfile(f"caltech101_112/{name}.jpg").read() for name in PHOTOS]
    images = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
    images = [np.array(ImageOps.fit(image, (SIDE, SIDE)))[..., ::-1] for image in images]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def shrink(path: Path) -> None:
    """Store the same pixels without transparency, as small as PNG gets them."""
    with Image.open(path) as picture:
        rgb = picture.convert("RGB")
    rgb.save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", type=Path, default=ROOT / "docs" / "masks.png")
    parser.add_argument("--seed", type=int, default=1, help="of the masks (%(default)s)")
    options = parser.parse_args()
    DefaultScope.get_instance("readme_picture", scope_name="mmpretrain")
    groups = []
    for name, title in STRATEGIES.items():
        config = load_config(ROOT / "configs/demo" / f"mocov2-salmask-{name}_resnet18_demo.py")
        preprocessor = MODELS.build(config.model.data_preprocessor)
        masker = preprocessor.masker
        views = preprocessor({"inputs": read_photos(), "data_samples": None})["inputs"]
        torch.manual_seed(options.seed)
        masked = masker(views, views)
        photos, filtered = to_photos(views, preprocessor), masker.strategy.filters
        if not groups:  # where the object is does not depend on the strategy
            seen = [
                Column("view", photos),
                Column("saliency", to_heat(masked.query_saliency)),
                Column(
                    "foreground",
                    cover_background(photos, masked.query_foreground),
                    masker.grid,
                    covered=True,
                ),
            ]
            groups.append(("where", seen))
        hidden = {"masked query": masked.query, "hard negative": masked.hard_negatives[0]}
        columns = [Column(t, to_photos(v, preprocessor, filtered)) for t, v in hidden.items()]
        groups.append((title, columns))
    legend = describe(masker).partition("·")[2].strip()
    draw_columns(
        groups, (SIDE, SIDE), options.out, f"{legend}   ·   photos: Caltech-101, CC BY 4.0", 120
    )
    shrink(options.out)
    print(f"{options.out}: {options.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
