"""How much of the foreground cheaper ways to find it keep: a cache, and a cheaper localizer.

    python benchmarks/cached_saliency.py --backbone resnet18 --checkpoint FILE [--json FILE]

Views are cut from real photos as MoCo v2 cuts them (20 to 100 % of the area, 224 px, mirrored or
not; the other augmentations change colours only and are drawn for the row that says so). What a
localizer finds on the views themselves is the reference. Each row is another way to find it:

- ``cache of N px``: the localizer saw each whole photo once, as a square of N px, and a view's map
  is cut from that (``tools/cache_saliency.py --size N``);
- ``in bfloat16``, ``at N px`` and so on: the options of ``BackboneSaliency``;
- ``colours as in training``: the localizer itself on the views with their colours jittered, which
  is what it is given in training: the share of the foreground that chance decides there;
- ``of another photo``: the localizer's foreground of a view of another photo, which agrees where
  all foregrounds do (near the centre, say): the floor of the scale.

The backbone of the committed results is what one epoch of
``tools/train.py configs/demo/mocov2_resnet18_demo.py --cfg-options data_root=caltech101_112
train_cfg.max_epochs=2`` made of a ResNet-18, exported; a digest of its weights is in the file.

IoU is the intersection over union of a row's foreground and the reference's, the mean over views.
The ROC AUC is that of benchmarks/localizers.py on the views, with the objects' masks cut like them.
"""

import argparse
import contextlib
import copy
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np
import torch
from localizers import BATCH, GRID, IMAGENET_MEAN, IMAGENET_STD, SIDE, score, trained_net
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from photos import ROOT, unpack
from rich.table import Table
from torch import Tensor

from mmsalmask.cli import print_table, report_errors
from mmsalmask.config import load_config
from mmsalmask.data import RandomResizedCrop, read_image
from mmsalmask.engine.saliency_cache import localizer_identity
from mmsalmask.provenance import provenance, write_result
from mmsalmask.saliency import (
    BackboneSaliency,
    BoundaryPriorSaliency,
    Frozen,
    SpectralResidualSaliency,
    cut,
    foreground,
    pool_to_grid,
    standardise,
)

SIZES = (224, 320, 448)
TIMED = 16  # images of a timed batch
Localizer = Callable[[Tensor], Tensor]


class Views(NamedTuple):
    """Views of photos, and the photos.

    ``plain`` and ``jittered`` are normalised (N, 3, 224, 224), the same crops; ``box`` (N, 4),
    ``flip`` (N,) and ``image`` (N,) say which; ``truth`` is (N, 7, 7) bool; ``photos`` are
    (H, W, 3) uint8 RGB.
    """

    plain: Tensor
    jittered: Tensor
    image: Tensor
    box: Tensor
    flip: Tensor
    truth: Tensor
    photos: list[np.ndarray]


def normalised(images: list[np.ndarray]) -> Tensor:
    """(N, 3, S, S) float32 of RGB uint8 images (S, S, 3)."""
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return (stacked / 255 - IMAGENET_MEAN) / IMAGENET_STD


def draw_views(folder: Path, split: str, per_photo: int) -> Views:
    """So many random views of each photo of a COCO folder."""
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its own progress
        coco = COCO(str(folder / "annotations" / f"instances_{split}2017.json"))
    views = load_config(str(ROOT / "configs/_base_/datasets/mocov2_views.py")).view_pipeline
    crop, *colours, flip = views
    crop = RandomResizedCrop(**{key: crop[key] for key in crop if key != "type"})
    colours = Compose(colours)
    photos, rows = [], []
    for index in sorted(coco.imgs):
        info = coco.imgs[index]
        photo = read_image(folder / f"{split}2017" / info["file_name"])
        union = np.zeros(photo.shape[:2], dtype=np.uint8)
        for annotation in coco.imgToAnns[index]:
            union |= coco.annToMask(annotation)
        for _ in range(per_photo):
            view = crop({"img": photo})
            x0, y0, x1, y1 = (
                np.multiply(view["crop_box"], photo.shape[1::-1] * 2).round().astype(int)
            )
            mask = mmcv.imresize(union[y0:y1, x0:x1], (SIDE, SIDE), interpolation="nearest")
            jittered = colours({"img": view["img"].copy()})["img"]
            shown = [view["img"][..., ::-1], jittered[..., ::-1], mask]
            mirrored = np.random.random() < flip.prob
            if mirrored:
                shown = [part[:, ::-1] for part in shown]
            rows.append((*shown, len(photos), view["crop_box"], mirrored))
        photos.append(photo[..., ::-1])
    plain, jittered, masks, image, box, flip = zip(*rows, strict=True)
    return Views(
        normalised(plain),
        normalised(jittered),
        torch.tensor(image),
        torch.tensor(box, dtype=torch.float32),
        torch.tensor(flip),
        pool_to_grid(torch.from_numpy(np.stack(masks)).float(), GRID) >= 0.5,
        photos,
    )


def run(localizer: Localizer, images: Tensor) -> tuple[Tensor, float]:
    """Maps of images, and the fastest of three timings of one batch in ms per image."""
    times = []
    maps = torch.cat([localizer(part) for part in images.split(BATCH)])
    batch = images[:TIMED]
    for _ in range(3):
        start = time.perf_counter()
        localizer(batch)
        times.append(time.perf_counter() - start)
    return maps, 1000 * min(times) / len(batch)


def from_cache(localizer: Localizer, views: Views, size: int) -> tuple[Tensor, float]:
    """The views' maps cut from those of the whole photos, and the ms of cutting one view."""
    whole = [mmcv.imresize(photo, (size, size), backend="pillow") for photo in views.photos]
    maps = torch.cat([standardise(localizer(part)) for part in normalised(whole).split(BATCH)])
    times = []
    for _ in range(3):
        start = time.perf_counter()
        found = cut(maps[views.image], views.box, views.flip, (GRID, GRID))
        times.append(time.perf_counter() - start)
    return found, 1000 * min(times) / len(found)


def iou(one: Tensor, other: Tensor) -> float:
    """Mean intersection over union of foregrounds (N, g, g); two empty ones agree."""
    both, either = (one & other).sum((1, 2)), (one | other).sum((1, 2))
    return torch.where(either > 0, both / either.clamp(min=1), 1.0).mean().item()


def compare(localizer: Localizer, cheaper: dict[str, Localizer], views: Views) -> dict[str, dict]:
    """One row for the localizer itself, and one for each other way to find the foreground."""
    found = {"on the views": run(localizer, views.plain)}
    found["colours as in training"] = run(localizer, views.jittered)
    found |= {f"cache of {size} px": from_cache(localizer, views, size) for size in SIZES}
    stride = len(views.image) // len(views.photos)  # the views of one photo follow each other
    found["of another photo"] = (found["on the views"][0].roll(stride, 0), 0.0)
    found |= {name: run(other, views.plain) for name, other in cheaper.items()}
    reference = foreground(pool_to_grid(found["on the views"][0], GRID))
    rows = {}
    for name, (maps, milliseconds) in found.items():
        auc, counted = score(maps, views.truth)
        rows[name] = {
            "iou": round(iou(foreground(pool_to_grid(maps, GRID)), reference), 4),
            "score": round(auc, 4),
            "views": len(maps),
            "views_scored": counted,
            "ms_per_view": round(milliseconds, 4),
        }
    return rows


def cheaper_backbones(net: torch.nn.Module, bfloat16: bool) -> dict[str, Localizer]:
    options = {
        "channels_last": dict(channels_last=True),
        "at 160 px": dict(size=160),
        "at 128 px": dict(size=128),
    }
    if bfloat16:
        options["in bfloat16"] = dict(dtype="bfloat16")
    # The memory format is the weights': each has a copy of its own.
    return {
        name: Frozen(BackboneSaliency(copy.deepcopy(net), **option))
        for name, option in options.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", default="coco-mini", help="name of the photo set")
    parser.add_argument("--split", nargs="+", default=["val"], help="val, train or both")
    parser.add_argument("--backbone", help="mobilenet_v2 or a ResNet, e.g. resnet50")
    parser.add_argument(
        "--checkpoint", help="its weights: a path or torchvision://resnet50.imagenet1k_v2"
    )
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="also measure that; a CPU without its instructions takes seconds for an image",
    )
    parser.add_argument("--views", type=int, default=2, help="of each photo (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if bool(arguments.backbone) != bool(arguments.checkpoint):
        parser.error("--backbone and --checkpoint go together: a random backbone locates nothing")
    DefaultScope.get_instance("cached_saliency", scope_name="mmpretrain")
    chosen = {}
    weights = None
    if arguments.backbone:
        module = trained_net(arguments.backbone, arguments.checkpoint)
        weights = localizer_identity({}, module)["weights"]
        chosen[arguments.backbone] = (
            Frozen(module),
            cheaper_backbones(module.backbone, arguments.bfloat16),
        )
    chosen["BoundaryPriorSaliency"] = (Frozen(BoundaryPriorSaliency()), {})
    chosen["SpectralResidualSaliency"] = (Frozen(SpectralResidualSaliency()), {})
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        photos = unpack(arguments.photos, folder)
        for split in arguments.split:
            np.random.seed(arguments.seed)
            views = draw_views(photos, split, arguments.views)
            results[split] = {
                name: compare(localizer, cheaper, views)
                for name, (localizer, cheaper) in chosen.items()
            }
    for split, tables in results.items():
        for name, rows in tables.items():
            table = Table(title=f"{name}, {arguments.photos}, {split}")
            table.add_column("foreground found")
            for heading in ("IoU", "ROC AUC", "ms / view"):
                table.add_column(heading, justify="right")
            for way, row in rows.items():
                figures = f"{row['iou']:.3f}", f"{row['score']:.3f}", f"{row['ms_per_view']:.3f}"
                table.add_row(way, *figures)
            print_table(table)
    if arguments.json:
        origin = {**provenance(arguments.seed), "photos": arguments.photos, "weights": weights}
        write_result(arguments.json, {**origin, "results": results})
        print(f"written: {arguments.json}")


if __name__ == "__main__":
    with report_errors():
        main()
