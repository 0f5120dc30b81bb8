"""What local crops show of the object and of the key, by where their windows are placed.

    python benchmarks/crop_shares.py [--draws 20] [--json benchmarks/results/crop_shares.json]

Views of coco-mini's photos, and of Imagenette's zoomed out (:mod:`small_objects`), are cut as a
training cuts them, and windows out of those as ``SaliencyMasker(local_crops=2)`` does: at random,
near the centre, by two localizers, where the other view of the photo lies, and on the true object,
which no localizer can beat. MobileNetV2 has learned from ImageNet's labels and is downloaded
(14 MB); it looks at whole photos, as for a cache.
"""

import tempfile
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from localizers import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MOBILENET,
    SIDE,
    trained_net,
    unpacked_photos,
)
from photos import unpack
from shares import measured
from small_objects import zoomed_photos
from torch import Generator, Tensor

from mmsalmask.augmentation.crops import crop_and_resize, random_boxes
from mmsalmask.cli import report_errors
from mmsalmask.masking.local_crops import local_crops
from mmsalmask.saliency import BoundaryPriorSaliency, CentrePriorSaliency, Frozen, cut

VIEW, WINDOWS = 64, 2


@torch.no_grad()
def measure(images: Tensor, objects: Tensor, maps: Tensor, draws: int, seed: int) -> dict:
    """By placement: shares of the windows, in percent, that the object, the key and both fill.

    Args:
        images: normalised (N, 3, H, W).
        objects: bool (N, H, W).
        maps: saliency of the whole images (N, h, w), of a net.
        draws: pairs of views of each photo.
    """
    drawn = Generator().manual_seed(seed)
    shares: dict[str, list[Tensor]] = {}
    for _ in range(draws):
        query, key = random_boxes(_sides(images).repeat(2, 1), generator=drawn).chunk(2)
        seen = torch.stack([objects, _inside(key, images), objects & _inside(key, images)], 1)
        views, parts = (_cut(whole, query) for whole in (images, seen.float()))
        size = torch.tensor([images.shape[3], images.shape[2]] * 2)
        own = cut(maps, query / size, torch.zeros(len(images), dtype=torch.bool), (7, 7))
        places = {
            "random": None,
            "CentrePriorSaliency": CentrePriorSaliency()(views),
            "BoundaryPriorSaliency": Frozen(BoundaryPriorSaliency())(views),
            "MobileNetV2, ImageNet labels": own,
            "what the key shows, too": parts[:, 1],
            "true object": parts[:, 0],
        }
        # Views without an object, or of nothing else, say nothing.
        telling = (parts[:, 0].mean((1, 2)) > 0.02) & (parts[:, 0].mean((1, 2)) < 0.98)
        for name, saliency in places.items():
            windows = local_crops(parts, saliency, WINDOWS, drawn)
            by_view = windows.mean((2, 3)).view(WINDOWS, len(images), 3)[:, telling]
            shares.setdefault(name, []).append(by_view.flatten(0, 1))
    found = {name: torch.cat(each).mean(0).mul(100).tolist() for name, each in shares.items()}
    return {
        name: dict(zip(("object", "key", "both"), (round(v, 1) for v in values), strict=True))
        for name, values in found.items()
    }


def _sides(images: Tensor) -> Tensor:
    return torch.tensor(images.shape[2:]).expand(len(images), 2)


def _inside(boxes: Tensor, images: Tensor) -> Tensor:
    """The pixels of boxes x0, y0, x1, y1, bool (N, H, W)."""
    x0, y0, x1, y1 = boxes[:, :, None, None].unbind(1)
    rows, columns = (torch.arange(side) + 0.5 for side in images.shape[2:])
    rows = rows[:, None]
    return (columns > x0) & (columns < x1) & (rows > y0) & (rows < y1)


def _cut(images: Tensor, boxes: Tensor) -> Tensor:
    return crop_and_resize(images, boxes, torch.zeros(len(boxes), dtype=torch.bool), VIEW)


def zoomed_imagenette() -> tuple[Tensor, Tensor]:
    """Every 39th test photo, zoomed out: normalised (100, 3, 112, 112), and where it lies, bool."""
    with tempfile.TemporaryDirectory() as folder:
        zoomed = zoomed_photos(unpack("imagenette_112", folder) / "val")
        _, photos, places = zip(*islice(zoomed, 0, None, 39), strict=True)
    images = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2) / 255
    return (images - IMAGENET_MEAN) / IMAGENET_STD, torch.from_numpy(np.stack(places))


def main(draws: int, seed: int) -> dict:
    net = Frozen(trained_net("mobilenet_v2", MOBILENET))
    sets = {"coco-mini": unpacked_photos(), "Imagenette, zoomed out": zoomed_imagenette()}
    found = {}
    for name, (images, objects) in sets.items():
        enlarged = F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True)
        maps = torch.cat([net(part) for part in enlarged.split(20)])
        found[name] = measure(images, objects, maps, draws, seed)
    return found


if __name__ == "__main__":
    with report_errors():
        measured(__doc__, main)
