"""Run a config's localizer once over its training images, so that training need not run it at all.

    mmsalmask cache CONFIG -o data/saliency.safetensors \\
        --cfg-options data_root=/data/imagenet
    torchrun --nproc-per-node 4 -m mmsalmask cache CONFIG -o data/saliency.safetensors

    mmsalmask train CONFIG --cfg-options \\
        model.data_preprocessor.saliency_cache=data/saliency.safetensors

Finished shards lie in <out>.parts until the last one is there; then they are joined into <out>.
Whatever stops it, the same command, with as many processes as you like, goes on with what is
missing. Several processes share the work through that folder alone, also by hand: RANK and
WORLD_SIZE say which part is whose.
"""

import argparse
import errno
import io
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import mmsalmask
from mmsalmask.algorithms import MaskingDataPreprocessor
from mmsalmask.algorithms.preprocessor import normalisation
from mmsalmask.checks import check_device
from mmsalmask.cli import LOADERS, Parser, config_arguments, report_errors
from mmsalmask.config import check_config, load_config
from mmsalmask.data import BrokenImage, fingerprint, read_image
from mmsalmask.data.fingerprint import not_plain
from mmsalmask.data.image_folder import image_folders
from mmsalmask.engine.paths import fetch_checkpoints
from mmsalmask.engine.saliency_cache import (
    localizer_identity,
    refuse_another,
    write_cache,
)
from mmsalmask.errors import InputError
from mmsalmask.evaluation.features import bands_of
from mmsalmask.files import write_atomically
from mmsalmask.jobs import claim
from mmsalmask.registry import DATASETS, MODELS
from mmsalmask.saliency import Frozen, Localizer, standardise


def cache_saliency(
    config: str,
    out: str | Path,
    size: int = 320,
    batch_size: int = 64,
    shard_size: int = 1024,
    workers: int = 4,
    device: str | None = None,
    launcher: str = "none",
    cfg_options: Mapping[str, Any] | None = None,
) -> None:
    """Run the localizer of a config over its training images, and write their maps into one file.

    Args:
        config: a config file with a localizer.
        out: the cache to write; finished shards lie in ``<out>.parts``.
        size: pixels of the square that images are resized to for the localizer.
        batch_size: images that it gets at once.
        shard_size: images of a shard.
        workers: processes that decode.
        device: ``None`` for this process's GPU, or the CPU.
        launcher: ``"slurm"`` to take rank and world size from Slurm's variables.
        cfg_options: overrides of config keys, dotted path → value.

    Raises:
        InputError: the config has no localizer, or ``out`` is another cache.

    Example::

        config = "mmsalmask::demo/mocov2-salmask-mean_resnet18_demo.py"
        cache_saliency(config, "saliency.safetensors", cfg_options={"data_root": "photos"})
    """
    given, out = config, Path(out)
    rank, world = place(launcher)
    config = load_config(given, cfg_options)
    check_config(config)
    if (channels := bands_of(config)) is not None:
        raise InputError(
            f"{given} trains on images of {channels} channels (mmsalmask.LoadBands), and a cache "
            "is made of 8-bit colours: train without a cache"
        )
    fetch_checkpoints(config)
    logger = MMLogger.get_instance("cache_saliency", log_level="WARNING")
    DefaultScope.get_instance(
        "cache_saliency", scope_name=config.get("default_scope") or "mmpretrain"
    )
    settings = settings_of(config, given)
    plain = {key: settings[key] for key in ("mean", "std", "to_rgb") if key in settings}
    preprocessor = MaskingDataPreprocessor(**plain).to(choose_device(device))
    localizer = MODELS.build(settings["masker"]["localizer"])
    dataset = whole_dataset(config, given)
    for folder in image_folders(dataset):
        folder.tell(logger)
    manifest = {
        "dataset": fingerprint(dataset),
        "localizer": localizer_identity(settings["masker"]["localizer"], localizer),
        "size": size,
        "normalisation": normalisation(**plain),
    }
    if out.exists():
        refuse_another(out, manifest)
        print(f"{out} is complete")
        return
    shards = Shards(out, manifest["dataset"]["images"], shard_size)
    claim(shards.folder, {**manifest, "shard_size": shard_size}, "--out")
    mine = [shard for shard in shards.missing() if shard % world == rank]
    broken = compute(
        shards,
        mine,
        WholeImages(dataset, size),
        preprocessor,
        Frozen(localizer),
        batch_size,
        workers,
        quiet=rank > 0,
    )
    if broken:
        print(f"{broken} images cannot be read; training replaces them by others")
    if missing := shards.missing():
        if rank == 0:
            print(f"{len(missing)} of {shards.count} shards are other processes' and not yet done")
        return
    versions = {"mmsalmask": mmsalmask.__version__, "torch": torch.__version__}
    join(out, shards, {**manifest, "versions": versions})
    print(f"{out}: {shards.images} maps, {out.stat().st_size / 1e6:.1f} MB")


def place(launcher: str) -> tuple[int, int]:
    """Rank of this process and number of all."""
    if launcher == "slurm":
        os.environ.setdefault("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
    names = ("SLURM_PROCID", "SLURM_NTASKS") if launcher == "slurm" else ("RANK", "WORLD_SIZE")
    try:
        rank, world = int(os.environ.get(names[0], 0)), int(os.environ.get(names[1], 1))
    except ValueError:
        rank, world = -1, 0
    if not 0 <= rank < world:
        raise InputError(f"{names[0]} and {names[1]} must be numbers with 0 <= rank < world size")
    return rank, world


def choose_device(given: str | None) -> torch.device:
    if given is None and torch.cuda.is_available():
        given = f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"
    return check_device(given or "cpu")


class WholeImages(Dataset):
    """Images of a dataset, resized to a square, BGR uint8 (3, S, S), and whether they are whole."""

    def __init__(self, dataset: Dataset, size: int) -> None:
        self.dataset = dataset
        self.size = size

    def __getitem__(self, index: int) -> tuple[Tensor, bool]:
        try:
            image = read_image(self.dataset.get_data_info(index)["img_path"])
        except BrokenImage:
            return torch.zeros(3, self.size, self.size, dtype=torch.uint8), False
        image = mmcv.imresize(image, (self.size, self.size), backend="pillow")
        return torch.from_numpy(image).permute(2, 0, 1), True


class Shards:
    """The parts of a cache, each a file of maps of consecutive images in ``<out>.parts``."""

    def __init__(self, out: Path, images: int, size: int) -> None:
        self.folder = out.with_name(f"{out.name}.parts")
        self.images = images
        self.size = size
        self.count = math.ceil(images / size)

    def file(self, shard: int) -> Path:
        return self.folder / f"{shard:06d}.npy"

    def positions(self, shard: int) -> range:
        return range(shard * self.size, min((shard + 1) * self.size, self.images))

    def missing(self) -> list[int]:
        return [shard for shard in range(self.count) if not self.file(shard).exists()]

    def save(self, shard: int, maps: Tensor) -> None:
        content = io.BytesIO()
        np.save(content, maps.numpy())
        write_atomically(self.file(shard), content.getvalue())

    def load(self) -> Iterator[Tensor]:
        for shard in range(self.count):
            yield torch.from_numpy(np.load(self.file(shard)))


def settings_of(config: Config, given: str) -> dict:
    """The data preprocessor's, which has a masker with a localizer."""
    settings = config.get("model", {}).get("data_preprocessor") or config.get("data_preprocessor")
    localizer = ((settings or {}).get("masker") or {}).get("localizer")
    if localizer is None:
        raise InputError(f"{given} has no localizer in a masker, so no saliency to cache")
    part = Localizer.registered().get(localizer.type.rpartition(".")[2])
    if part is not None and part.needs == "crops":
        raise InputError(f"the localizer of {given} is a cache: take a config with the network")
    return settings


def whole_dataset(config: Config, given: str) -> Dataset:
    """All images of the training data, of which training may take a part by ``indices``."""
    settings = (config.get("train_dataloader") or {}).get("dataset")
    if settings is None:
        raise InputError(f"{given} has no train_dataloader.dataset to localize")
    while "pipeline" not in settings and "dataset" in settings:  # InMemory
        settings = settings["dataset"]
    if "datasets" in settings:
        raise not_plain(settings["type"])
    settings = {key: value for key, value in settings.items() if key != "indices"}
    return DATASETS.build({**settings, "pipeline": []})


def compute(
    shards: Shards,
    mine: list[int],
    images: WholeImages,
    preprocessor: MaskingDataPreprocessor,
    localizer: Frozen,
    batch_size: int,
    workers: int,
    quiet: bool,
) -> int:
    """Make the missing shards of this process; return how many broken images it met."""
    batches = [
        (shard, positions)
        for shard in mine
        for positions in torch.tensor(shards.positions(shard)).split(batch_size)
    ]
    loader = DataLoader(
        images,
        batch_sampler=[positions.tolist() for _, positions in batches],
        num_workers=min(workers, len(batches)),
        pin_memory=preprocessor.device.type == "cuda",
    )
    broken, maps = 0, []
    bar = Progress(
        TextColumn("localizing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=quiet,
    )
    with bar:
        task = bar.add_task("", total=sum(len(positions) for _, positions in batches))
        for (shard, positions), (batch, whole) in zip(batches, loader, strict=True):
            views = preprocessor({"inputs": batch, "data_samples": None})["inputs"]
            saliency = standardise(localizer(views))
            # An image that training cannot read is never looked up; zero says nothing, anyway.
            maps.append(saliency.cpu() * whole[:, None, None])
            broken += int((~whole).sum())
            if positions[-1] == shards.positions(shard)[-1]:
                shards.save(shard, torch.cat(maps))
                maps = []
            bar.advance(task, len(positions))
    return broken


def join(out: Path, shards: Shards, manifest: dict) -> None:
    """Make the cache of all its shards, and remove them."""
    try:
        cells = np.load(shards.file(0), mmap_mode="r").shape[1:]
        write_cache(out, shards.load(), cells, manifest)
    except FileNotFoundError:
        # Two processes may have found the last shards there: the other one was faster.
        if not out.exists():
            raise
    shutil.rmtree(shards.folder, ignore_errors=True)


@contextmanager
def told_of_a_full_disk(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise InputError(
            f"no space left on the disk that holds {out}: make room for twice the cache and start "
            "the same command again, finished shards are kept"
        ) from error


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    config_arguments(parser)
    parser.add_argument(
        "-o", "--out", type=Path, metavar="FILE", required=True, help="the cache to write"
    )
    parser.add_argument(
        "--size",
        type=int,
        default=320,
        help="pixels of the square that images are resized to for the localizer (%(default)s, for "
        "views of 224 px: there objects are as large as in MoCo's crops on average)",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images (%(default)s)")
    parser.add_argument("--shard-size", type=int, default=1024, help="images (%(default)s)")
    parser.add_argument(
        "--workers",
        type=int,
        default=LOADERS,
        help="processes that decode (%(default)s)",
    )
    parser.add_argument("--device", help="default: this process's GPU, or the CPU")
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm"],
        default="none",
        help="slurm: take rank and world size from Slurm's variables, not from RANK and WORLD_SIZE",
    )
    options = parser.parse_args(words)
    if min(options.size, options.batch_size, options.shard_size) < 1 or options.workers < 0:
        parser.error("--size, --batch-size and --shard-size must be at least 1, --workers 0")
    return options


def main(words: list[str] | None = None) -> None:
    options = parse_arguments(words)
    with report_errors(), told_of_a_full_disk(options.out):
        cache_saliency(**vars(options))
