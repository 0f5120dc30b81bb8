"""How well each localizer finds the objects of real photos, and what it costs.

    python benchmarks/localizers.py [--photos coco-mini] [--split val train]
        [--backbone resnet50 --checkpoint torchvision://resnet50.imagenet1k_v2] [--json FILE]

The photos are resized to 224x224. The union of an image's instance masks (crowds included),
averaged over a 7x7 grid and cut at 0.5, is the true foreground; the score is the area under the ROC
curve of the 49 patch values, averaged over the images that have both kinds of patch. The constants
of ``BoundaryPriorSaliency`` were chosen on ``train``; ``val`` is for reporting.
"""

import argparse
import contextlib
import io
import re
import tempfile
import time
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import numpy as np
import torch
from photos import unpack
from PIL import Image
from rich.table import Table
from torch import Tensor

from mmsalmask.cli import print_table, report_errors
from mmsalmask.errors import InputError
from mmsalmask.provenance import provenance, write_result
from mmsalmask.saliency import (
    BackboneSaliency,
    BoundaryPriorSaliency,
    Frozen,
    pool_to_grid,
)
from mmsalmask.saliency import Localizer as Registered

SIDE, GRID, BATCH = 224, 7, 64
MOBILENET = "torchvision://mobilenet_v2"  # trained with ImageNet's labels
IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)

Localizer = Callable[[Tensor], Tensor]


def coco_photos(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Normalised images (N, 3, 224, 224) of a COCO folder, and objects, bool (N, 224, 224)."""
    from pycocotools.coco import COCO

    annotations = folder / "annotations" / f"instances_{split}2017.json"
    if not annotations.is_file():
        raise InputError(f"there is no {annotations}: use a COCO set that has the split {split}")
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its own progress
        coco = COCO(str(annotations))
    images, masks = [], []
    for index in sorted(coco.imgs):
        info = coco.imgs[index]
        with Image.open(folder / f"{split}2017" / info["file_name"]) as photo:
            image = photo.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        union = np.zeros((info["height"], info["width"]), dtype=np.uint8)
        for annotation in coco.imgToAnns[index]:
            union |= coco.annToMask(annotation)
        mask = Image.fromarray(union).resize((SIDE, SIDE), Image.Resampling.NEAREST)
        images.append(torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255)
        masks.append(torch.from_numpy(np.array(mask)) > 0)
    normalised = (torch.stack(images) - IMAGENET_MEAN) / IMAGENET_STD
    return normalised, torch.stack(masks)


def unpacked_photos(name: str = "coco-mini", split: str = "val") -> tuple[Tensor, Tensor]:
    """:func:`coco_photos` of a set that is packed."""
    with tempfile.TemporaryDirectory() as folder:
        return coco_photos(unpack(name, folder), split)


def on_grid(objects: Tensor, grid: int = GRID) -> Tensor:
    """The cells, bool (N, grid, grid), at least half of which are objects (N, H, W)."""
    return pool_to_grid(objects.float(), grid) >= 0.5


def roc_auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a true value ranks above a false one, ties half.

    Args:
        scores: (n,) numbers.
        truth: (n,) bool, with both kinds in it.
    """
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]  # ties share the mean of their ranks
    positives = truth.sum()
    above = rank[truth].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (truth.size - positives)))


def score(saliency: Tensor, truth: Tensor) -> tuple[float, int]:
    """Mean ROC AUC of maps (N, h, w) against (N, g, g), and the number of images it counts."""
    values = pool_to_grid(saliency, truth.shape[-1]).flatten(1).numpy()
    scores = [
        roc_auc(value, true)
        for value, true in zip(values, truth.flatten(1).numpy(), strict=True)
        if 0 < true.sum() < true.size
    ]
    return float(np.mean(scores)), len(scores)


def measure(localizer: Localizer, images: Tensor, truth: Tensor) -> dict:
    """Score, images counted, and the fastest of three timings of one batch in ms per image."""
    batch, times = images[:BATCH], []
    with torch.no_grad():
        saliency = torch.cat([localizer(part) for part in images.split(BATCH)])
        for _ in range(3):
            start = time.perf_counter()
            localizer(batch)
            times.append(time.perf_counter() - start)
    auc, counted = score(saliency, truth)
    milliseconds = 1000 * min(times) / len(batch)
    return {"score": round(auc, 4), "images": counted, "ms_per_image": round(milliseconds, 3)}


def localizers(backbone: str | None, checkpoint: str | None) -> dict[str, Localizer]:
    """Everything the table compares, by name: every localizer that needs nothing is there."""
    found = {"border distance, no prior": BoundaryPriorSaliency().border_distance}
    for name, part in Registered.registered().items():
        arguments = signature(part).parameters.values()
        if all(argument.default is not argument.empty for argument in arguments):
            found[name] = Frozen(part())
    if backbone:
        found[f"{backbone}, {checkpoint}"] = Frozen(trained_net(backbone, checkpoint))
    return found


def trained_net(name: str, checkpoint: str) -> BackboneSaliency:
    """MobileNetV2 (``mobilenet_v2``) or a ResNet (``resnet50``) with these weights."""
    from mmsalmask.algorithms.localizers import backbone_saliency

    if name == "mobilenet_v2":
        return backbone_saliency({"type": "MobileNetV2"}, checkpoint)
    depth = re.fullmatch(r"resnet(\d+)", name)
    if depth is None:
        raise InputError(f"--backbone is mobilenet_v2 or looks like resnet50, got {name!r}")
    return backbone_saliency({"type": "ResNet", "depth": int(depth[1])}, checkpoint)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", default="coco-mini", help="name of the photo set")
    parser.add_argument("--split", nargs="+", default=["val"], help="val, train or both")
    parser.add_argument("--backbone", help="also measure mobilenet_v2 or a ResNet, e.g. resnet50")
    parser.add_argument(
        "--checkpoint", help="its weights: a path or torchvision://resnet50.imagenet1k_v2"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if bool(arguments.backbone) != bool(arguments.checkpoint):
        parser.error("--backbone and --checkpoint go together: a random backbone locates nothing")
    torch.manual_seed(arguments.seed)

    results = {}
    for split in arguments.split:
        images, objects = unpacked_photos(arguments.photos, split)
        truth = on_grid(objects)
        chosen = localizers(arguments.backbone, arguments.checkpoint)
        results[split] = {name: measure(fn, images, truth) for name, fn in chosen.items()}

    for split, rows in results.items():
        table = Table(title=f"{arguments.photos}, {split}")
        table.add_column("localizer")
        for heading in ("ROC AUC", "images", "ms / image"):
            table.add_column(heading, justify="right")
        for name, row in rows.items():
            table.add_row(
                name, f"{row['score']:.4f}", str(row["images"]), f"{row['ms_per_image']:.2f}"
            )
        print_table(table)
    if arguments.json:
        write_result(
            arguments.json,
            {**provenance(arguments.seed), "photos": arguments.photos, "results": results},
        )
        print(f"written: {arguments.json}")


if __name__ == "__main__":
    with report_errors():
        main()
