"""The pictures of docs/masks.md: a mask as it should be, and what goes wrong with one.

    python benchmarks/mask_pictures.py [--folder docs] [--seed 3]

Unlike in training, view and hard negative are of one crop, as in benchmarks/readme_picture.py.
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
from readme_picture import SIDE, read_photos, shrink
from torch import Tensor

sys.path.insert(0, str(ROOT))

from mmsalmask.config import load_config
from mmsalmask.masking import MeanFill, SaliencyMasker
from mmsalmask.registry import MODELS
from mmsalmask.saliency import BoundaryPriorSaliency
from mmsalmask.visualization.gallery import (
    Column,
    cover_background,
    draw_columns,
    to_heat,
    to_photos,
)

# Photos in which the weight-free localizer is wrong: the object is at the rim, or all there is.
HARD = ("000000001000", "000000037777", "000000102411")
WRONG = {
    "as it should be": {},
    "offset=3: all is foreground": dict(offset=3.0),
    "offset=-1: little is": dict(offset=-1.0),
    "grid=3: coarse": dict(grid=3),
}


def read_hard() -> Tensor:
    """The centres of those photos of coco-mini, uint8 BGR (N, 3, SIDE, SIDE)."""
    if (archive := find_photos("coco-mini")) is None:
        sys.exit("coco-mini.tar is not here; set MMSALMASK_PHOTOS to the folder it lies in")
    images = []
    with tarfile.open(archive) as tar:
        for name in HARD:
            (member,) = (each for each in tar.getnames() if each.endswith(f"{name}.jpg"))
            image = Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB")
            images.append(np.array(ImageOps.fit(image, (SIDE, SIDE)))[..., ::-1])
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


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
            ("", list(columns(preprocessor, read_hard(), options.seed).values())),
        ],
    }
    credits = {"masks_settings.png": "Caltech-101, CC BY 4.0", "masks_wrong.png": "COCO, CC BY"}
    for name, groups in pictures.items():
        path = options.folder / name
        draw_columns(groups, (SIDE, SIDE), path, f"photos: {credits[name]}", 110)
        shrink(path)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
