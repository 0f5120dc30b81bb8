"""Imagenette with its objects small and anywhere: what the study asks of saliency there.

Imagenette's photos show one large object in the middle, which needs no localizer to be found. Here
each photo lies at half its size at a random place, and around it one of its own corners continues,
mirrored again and again:

    python benchmarks/small_objects.py FOLDER [--share 0.5] [--seed 0]
    python benchmarks/study.py --train FOLDER/train --test FOLDER/val --rows …
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from photos import unpack
from PIL import Image
from rich.progress import track

from mmsalmask.cli import report_errors

SHARE = 0.5  # of a photo's side
CORNER = 3  # a corner is this part of the photo's side
FEATHER = 4  # pixels over which the small photo fades into what is around it


def zoomed_out(
    photo: np.ndarray, share: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A photo at ``share`` of its size, at a random place in the mirrored pixels of its corner.

    Args:
        photo: (S, S, 3) uint8.
        share: of the photo's side, between 0 and 1.
        random: draws the corner and the place.

    Returns:
        (S, S, 3) uint8; the pixels in which the small photo lies, bool (S, S).
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
    place = slice(y, y + small), slice(x, x + small)
    whole[place] += weight * (shrunk - whole[place])
    inside = np.zeros((side, side), bool)
    inside[place] = True
    return whole.round().astype(np.uint8), inside


def zoomed_photos(
    source: Path, share: float = SHARE, seed: int = 0
) -> Iterator[tuple[Path, np.ndarray, np.ndarray]]:
    """:func:`zoomed_out` of every JPEG below a folder, with its path there.

    A photo's corner and place depend on the seed and on how many others come before it.
    """
    for number, path in enumerate(sorted(source.rglob("*.jpg"))):
        photo = np.asarray(Image.open(path).convert("RGB"))
        zoomed = zoomed_out(photo, share, np.random.default_rng([seed, number]))
        yield path.relative_to(source), *zoomed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where train/ and val/ are written")
    parser.add_argument(
        "--share", type=float, default=SHARE, help="of a photo's side (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not 0 < arguments.share <= 1:
        parser.error(f"--share is {arguments.share}; give a share above 0, up to 1")
    with tempfile.TemporaryDirectory() as unpacked:
        source = unpack("imagenette_112", unpacked)
        photos = zoomed_photos(source, arguments.share, arguments.seed)
        for path, photo, _ in track(photos, "photos", total=len(list(source.rglob("*.jpg")))):
            file = arguments.folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo).save(file, quality=95)
    classes = sorted((arguments.folder / "val").iterdir())
    first = [cv2.imread(str(min(folder.iterdir()))) for folder in classes]
    cv2.imwrite(str(arguments.folder / "first.jpg"), cv2.hconcat(first))
    print(f"{arguments.folder}: train, val, and first.jpg with a photo of each class")


if __name__ == "__main__":
    with report_errors():
        main()
