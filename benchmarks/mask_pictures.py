"""The pictures of docs/masks.md: a mask as it should be, what goes wrong with one, object crops.

    python benchmarks/mask_pictures.py [--folder docs] [--seed 3]

Unlike in training, view and hard negative are of one crop, as in benchmarks/readme_picture.py.
"""

import argparse
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.registry import DefaultScope
from photos import ROOT
from readme_picture import SIDE, read_photos, shrink
from torch import Tensor

sys.path.insert(0, str(ROOT))

from mmsalmask.config import load_config
from mmsalmask.masking import MeanFill, SaliencyMasker
from mmsalmask.masking.local_crops import local_crops
from mmsalmask.registry import MODELS
from mmsalmask.saliency import BoundaryPriorSaliency
from mmsalmask.visualization.gallery import (
    Column,
    cover_background,
    draw_columns,
    to_heat,
    to_photos,
)

# Parts of those photos, left, top and side as shares of the whole, whose object is at the rim.
CROPS = ((0.0, 0.3, 0.5), (0.45, 0.0, 0.55), (0.4, 0.35, 0.6))
WRONG = {
    "as it should be": {},
    "offset=3: all is foreground": dict(offset=3.0),
    "offset=-1: little is": dict(offset=-1.0),
    "grid=3: coarse": dict(grid=3),
}


def crop(images: Tensor) -> Tensor:
    """Those parts of the photos, as large as the whole, (N, 3, SIDE, SIDE) uint8."""
    parts = []
    for image, shares in zip(images, CROPS, strict=True):
        left, top, side = (round(share * SIDE) for share in shares)
        part = image[None, :, top : top + side, left : left + side].float()
        parts.append(F.interpolate(part, (SIDE, SIDE), mode="bicubic").clamp(0, 255))
    return torch.cat(parts).round().to(torch.uint8)


def columns(preprocessor, images: Tensor, seed: int, **options) -> dict[str, Column]:
    """Pictures of what a masker with these options makes of the images, by their titles."""
    masker = SaliencyMasker(MeanFill(), BoundaryPriorSaliency(), **options)
    views = preprocessor({"inputs": images, "data_samples": None})["inputs"]
    torch.manual_seed(seed)
    masked = masker(views, views)
    photos = to_photos(views, preprocessor)
    shown = [
        Column("view", photos),
        Column("saliency", to_heat(masked.query_saliency)),
        Column("foreground", cover_background(photos, masked.query_foreground), masker.grid, True),
        Column("masked query", to_photos(masked.query, preprocessor)),
        Column("hard negative", to_photos(masked.hard_negatives[0], preprocessor)),
    ]
    return {column.title: column for column in shown}


def crop_columns(preprocessor, images: Tensor, seed: int) -> list[tuple[str, list[Column]]]:
    """Local crops of the images on the object, and those of as many random places."""
    views = preprocessor({"inputs": images, "data_samples": None})["inputs"]
    saliency = BoundaryPriorSaliency()(views)
    groups = [
        (
            "",
            [Column("view", to_photos(views, preprocessor)), Column("saliency", to_heat(saliency))],
        )
    ]
    for heading, where in (("on the object", saliency), ("anywhere", None)):
        crops = local_crops(views, where, 2, torch.Generator().manual_seed(seed)).chunk(2)
        shown = (to_photos(part, preprocessor) for part in crops)
        groups.append((heading, [Column(f"crop {i}", part) for i, part in enumerate(shown, 1)]))
    return groups


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "docs")
    parser.add_argument("--seed", type=int, default=3, help="of the masks (%(default)s)")
    options = parser.parse_args()
    DefaultScope.get_instance("mask_pictures", scope_name="mmpretrain")
    config = load_config(ROOT / "configs/demo/mocov2-salmask-mean_resnet18_demo.py")
    preprocessor = MODELS.build(config.model.data_preprocessor)
    pictures = {
        "masks_settings.png": [
            (title, [made["foreground"], made["hard negative"]])
            for title, made in (
                (title, columns(preprocessor, read_photos(), options.seed, **settings))
                for title, settings in WRONG.items()
            )
        ],
        "masks_wrong.png": [
            ("", list(columns(preprocessor, crop(read_photos()), options.seed).values())),
        ],
        "object_crops.png": crop_columns(preprocessor, read_photos(), options.seed),
    }
    for name, groups in pictures.items():
        path = options.folder / name
        draw_columns(groups, (SIDE, SIDE), path, "photos: Caltech-101, CC BY 4.0", 110)
        shrink(path)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
