"""Images per second of one core, from a file to what a training step takes, way by way.

Photos are those at hand and, since ImageNet is not, the larger ones once more, resized to 500 px
(its usual size) and encoded anew as JPEG of quality 90. Ways are measured in turns in one process
on one thread, each round all of them on the same photos, in seconds of the processor: figures hold
on a busy machine, and leave out waiting for a disk. An image is one photo and both of its views.

    python benchmarks/pipeline.py [--photos FOLDER] [--rounds 9] [--device cuda] [--json FILE]

On the side of the workers:

- Pillow: plain decoding, the full photo as an array;
- decode: the same by ``read_image``;
- mmpretrain: its MoCo v2 pipeline, two views (configs/_base_/datasets/mocov2_views.py);
- torchvision: the same two views by its transforms on PIL images;
- ours: ``LoadWhole`` and ``PackWhole``, decoding and squeezing;
- ours, in memory: an item of ``InMemory``, of pixels, and of a position alone.

On the side of the device: two views made of a batch that lies there (``DeviceAugmentation``).
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from photos import ROOT, unpack
from PIL import Image
from rich.table import Table
from torchvision import transforms

from mmsalmask.algorithms.preprocessor import build_augmentation
from mmsalmask.cli import print_table, report_errors
from mmsalmask.data import ImageFolder, InMemory, LoadWhole, PackWhole, read_image
from mmsalmask.provenance import provenance, write_result

BASES = ROOT / "configs" / "_base_" / "datasets"
# Set of photos → pixels of a view, side of the squeezed photo.
SIZES = {"caltech101_112": (64, 96), "coco-mini": (224, 288), "500 px": (224, 288)}
PER_ROUND = 64  # long enough for a way to forget what the one before left in the caches


def enlarge(photos: list[str], folder: Path, longer: int = 500) -> list[str]:
    """The photos with a longer side of so many pixels, as new JPEG files."""
    folder.mkdir()
    for number, path in enumerate(photos):
        with Image.open(path) as photo:
            factor = longer / max(photo.size)
            size = [round(side * factor) for side in photo.size]
            photo = photo.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        photo.save(folder / f"{number:03d}.jpg", quality=90)
    return sorted(map(str, folder.iterdir()))


def spread(paths: list[str], number: int) -> list[str]:
    return paths[:: max(1, len(paths) // number)][:number]


def mmpretrains(size: int) -> Callable[[str], dict]:
    config = Config.fromfile(BASES / "mocov2_views.py")
    config.view_pipeline[0].scale = size
    pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type="MultiView", num_views=2, transforms=[config.view_pipeline]),
        dict(type="PackInputs"),
    ]
    pipeline = Compose(pipeline)
    return lambda path: pipeline({"img_path": path})


def torchvisions(size: int) -> Callable[[str], list]:
    view = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, (0.2, 1.0)),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
            transforms.RandomGrayscale(0.2),
            transforms.RandomApply([transforms.GaussianBlur(13, (0.1, 2.0))], 0.5),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
        ]
    )

    def load(path: str) -> list:
        with Image.open(path) as photo:
            photo = photo.convert("RGB")
        return [view(photo), view(photo)]

    return load


def decode(path: str) -> np.ndarray:
    with Image.open(path) as photo:
        return np.asarray(photo.convert("RGB"))


def ways(paths: list[str], size: int, stored: int) -> dict[str, Callable[[int], object]]:
    """Name → what makes the item of photo ``index``."""
    squeeze, pack = LoadWhole(stored), PackWhole()
    dataset = dict(
        type="mmsalmask.ImageFolder",
        data_root=str(Path(paths[0]).parent),
        pipeline=[squeeze, pack],
    )
    held = InMemory(dataset)
    held.full_init()
    positions = InMemory(ImageFolder(dataset["data_root"], [squeeze, pack]), resident=True)
    positions.full_init()
    by_path = {
        "Pillow": decode,
        "decode": read_image,
        "mmpretrain": mmpretrains(size),
        "torchvision": torchvisions(size),
        "ours": lambda path: pack(squeeze({"img_path": path})),
    }
    found = {name: lambda i, make=make: make(paths[i]) for name, make in by_path.items()}
    found["ours, in memory"] = held.__getitem__
    found["ours, on the device"] = positions.__getitem__
    return found


def measure(found: dict[str, Callable], number: int, rounds: int) -> dict[str, float]:
    """Median processor seconds per image of each way, all on the same photos in each round."""
    seconds = {name: [] for name in found}
    for round_ in range(rounds + 1):
        indices = [(round_ * PER_ROUND + i) % number for i in range(PER_ROUND)]
        for name, make in found.items():
            start = time.process_time()
            for index in indices:
                make(index)
            if round_:  # the first round warms up
                seconds[name].append((time.process_time() - start) / PER_ROUND)
    return {name: statistics.median(values) for name, values in seconds.items()}


def measure_device(
    size: int, stored: int, batch: int, device: torch.device, rounds: int
) -> dict[str, float]:
    """Median seconds per image of two views on the device, and of turning two ready ones to float.

    Of the clock on a GPU, of the processor (all threads together) on a CPU.
    """
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    settings = Config.fromfile(BASES / "device_views.py").mocov2_augment
    settings.view.size = size
    augment = build_augmentation(settings)
    images = torch.randint(0, 256, (batch, 3, stored, stored), dtype=torch.uint8, device=device)
    ready = images.new_empty(2 * batch, 3, size, size)
    index = torch.arange(batch, device=device)
    sizes = torch.tensor([[375, 500]] * batch)
    timed = {
        "two views": lambda: augment(images, index, sizes),
        "copy to float": ready.float,
    }
    seconds = {name: [] for name in timed}
    for round_ in range(rounds + 1):
        for name, run in timed.items():
            start = clock()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_:
                seconds[name].append((clock() - start) / batch)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="a folder of your own, instead of the sets")
    parser.add_argument("--size", type=int, default=224, help="of views of --photos")
    parser.add_argument("--stored", type=int, default=288, help="side of squeezed --photos")
    parser.add_argument("--number", type=int, default=64, help="photos of each set (%(default)s)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, help="on the device; 128 on a GPU, 16 on a CPU")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    device = torch.device(arguments.device)
    batch = arguments.batch or (128 if device.type == "cuda" else 16)
    warnings.filterwarnings("ignore", "Only use 'alpha'")
    DefaultScope.get_instance("pipeline", scope_name="mmpretrain")

    results, on_device = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (paths, size, stored) in photo_sets(arguments, Path(folder)).items():
            torch.set_num_threads(1)
            seconds = measure(ways(paths, size, stored), len(paths), arguments.rounds)
            torch.set_num_threads(threads)
            base = seconds["mmpretrain"]
            results[name] = {
                "size": size,
                "stored": stored,
                "images_per_second": {way: 1 / s for way, s in seconds.items()},
                "times_mmpretrain": {way: base / s for way, s in seconds.items()},
            }
            if str(size) not in on_device:
                spent = measure_device(size, stored, batch, device, arguments.rounds)
                on_device[str(size)] = {
                    "stored": stored,
                    "ms_per_image": {k: 1000 * s for k, s in spent.items()},
                }

    table = Table(title="images/s per core (× mmpretrain)")
    table.add_column("photos, view")
    first = next(iter(results.values()))["images_per_second"]
    for way in first:
        table.add_column(way, justify="right")
    for name, row in results.items():
        cells = [
            f"{row['images_per_second'][way]:.0f} ({row['times_mmpretrain'][way]:.1f})"
            for way in first
        ]
        table.add_row(f"{name}, {row['size']} px", *cells)
    print_table(table)
    for size, row in on_device.items():
        spent = row["ms_per_image"]
        print(
            f"two views of {size} px on {device}, batch {batch}: {spent['two views']:.2f} ms per "
            f"image; a copy of two such views to float {spent['copy to float']:.2f} ms"
        )
    if arguments.json:
        setting = {
            "rounds": arguments.rounds,
            "photos_per_set": arguments.number,
            "device": str(device),
            "device_threads": threads,
            "batch": batch,
        }
        write_result(
            arguments.json,
            {**provenance(0), **setting, "results": results, "device_side": on_device},
        )
        print(f"written: {arguments.json}")


def photo_sets(
    arguments: argparse.Namespace, folder: Path
) -> dict[str, tuple[list[str], int, int]]:
    """Name → paths in a folder of their own, pixels of a view, side of the squeezed photo."""
    if arguments.photos is not None:
        listed = [str(p) for p in sorted(arguments.photos.rglob("*.*")) if p.is_file()]
        found = {"yours": (listed, arguments.size, arguments.stored)}
    else:
        small = sorted(map(str, unpack("caltech101_112", folder).rglob("*.jpg")))
        large = sorted(map(str, unpack("coco-mini", folder).rglob("*.jpg")))
        large = spread(large, arguments.number)
        listed = (small, large, enlarge(large, folder / "enlarged"))
        found = {n: (p, *SIZES[n]) for n, p in zip(SIZES, listed, strict=True)}
    return {
        name: (gather(spread(paths, arguments.number), folder / f"set {number}"), size, stored)
        for number, (name, (paths, size, stored)) in enumerate(found.items())
    }


def gather(paths: list[str], folder: Path) -> list[str]:
    folder.mkdir()
    for number, path in enumerate(paths):
        (folder / f"{number:04d}{Path(path).suffix}").write_bytes(Path(path).read_bytes())
    return sorted(map(str, folder.iterdir()))


if __name__ == "__main__":
    with report_errors():
        main()
