"""Imagenette with its objects small and anywhere: what the study asks of saliency there.

Imagenette's photos show one large object in the middle, which needs no localizer to be found. Here
each photo lies at half its size at a random place, and around it one of its own corners continues,
mirrored again and again:

    python benchmarks/small_objects.py FOLDER [--share 0.5] [--seed 0]
    python benchmarks/study.py --train FOLDER/train --test FOLDER/val --rows …
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from photos import unpack
from PIL import Image
from rich.progress import track

from mmsalmask.cli import report_errors

CORNER = 3  # a corner is this part of the photo's side
FEATHER = 4  # pixels over which the small photo fades into what is around it


def zoomed_out(photo: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """A photo at ``share`` of its size, at a random place in the mirrored pixels of its corner.

    Args:
        photo: (S, S, 3) uint8.
        share: of the photo's side, between 0 and 1.
        random: draws the corner and the place.

    Returns:
        (S, S, 3) uint8.
    """
    side, corner = len(photo), len(photo) // CORNER
    rows, columns = random.choice([0, side - corner], 2)
    part = photo[rows : rows + corner, columns : columns + corner]
    around = [(0, side - corner)] * 2
    whole = np.pad(part, [*around, (0, 0)], mode="symmetric").astype(float)
    small = round(share * side)
    shrunk = np.asarray(Image.fromarray(photo).resize([small] * 2, Image.Resampling.BICUBIC))
    steps = np.arange(small) + 0.5
    ramp = np.minimum(1, np.minimum(steps, steps[::-1]) / FEATHER)
    weight = (ramp[:, None] * ramp)[..., None]
    y, x = random.integers(0, side - small + 1, 2)
    place = whole[y : y + small, x : x + small]
    place += weight * (shrunk - place)
    return whole.round().astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where train/ and val/ are written")
    parser.add_argument("--share", type=float, default=0.5, help="of a photo's side (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as unpacked:
        source = unpack("imagenette_112", unpacked)
        for number, path in enumerate(track(sorted(source.rglob("*.jpg")), "photos")):
            random = np.random.default_rng([arguments.seed, number])
            photo = np.asarray(Image.open(path).convert("RGB"))
            file = arguments.folder / path.relative_to(source)
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(zoomed_out(photo, arguments.share, random)).save(file, quality=95)


if __name__ == "__main__":
    with report_errors():
        main()
