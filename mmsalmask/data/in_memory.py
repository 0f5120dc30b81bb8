"""A dataset whose images are decoded once and then stay in memory, or on the device."""

import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from mmengine.logging import MMLogger
from torch.utils.data import Dataset

from mmsalmask.checks import check_flag, check_part
from mmsalmask.data.fingerprint import fingerprint
from mmsalmask.data.image_folder import ImageFolder
from mmsalmask.data.loading import BrokenImage, LoadWhole
from mmsalmask.data.nesting import every_dataset
from mmsalmask.errors import InputError
from mmsalmask.registry import DATASETS

# Decoding may not take the last of the memory: nets, batches and workers need some, too.
_SHARE = 0.8
_SECONDS_BETWEEN_REPORTS = 10


@DATASETS.register_module()
class InMemory(Dataset):
    """Hold the images of a dataset as squares, decoded once, when it is initialised.

    What the first transform of the dataset's pipeline, a :class:`LoadWhole`, makes of each image is
    kept; the others run whenever an item is asked for. Workers that are forked, as they are by
    default, read the same memory; spawned ones share it, too, once torch has moved it to
    ``/dev/shm``. Each process of a distributed run has its own copy.

    A broken image is marked in the wrapped dataset and replaced as there, so that
    ``BrokenImagesHook`` counts it; in ``test_mode`` it is an error.

    Args:
        dataset: config of an :class:`ImageFolder`, or one of its kind, or the dataset itself.
        resident: hand on positions instead of pixels, for images that
            :class:`~mmsalmask.engine.ResidentImagesHook` puts on the device before training.

    Attributes:
        images: (M, C, S, S), uint8 BGR or, by :class:`LoadBands`, float32; ``None`` before
            initialisation, and where the device has taken them over.

    Raises:
        InputError: the dataset is no image folder or its pipeline does not begin with a
            ``LoadWhole``; at initialisation, if the images do not fit into the memory.
    """

    def __init__(self, dataset: dict | ImageFolder, resident: bool = False) -> None:
        if not isinstance(dataset, Dataset):
            dataset = DATASETS.build(check_part("dataset of InMemory", dataset))
        self.dataset = dataset
        self.resident = check_flag("resident", resident)
        self.images: torch.Tensor | None = None
        self._initialized = False
        if not isinstance(self.dataset, ImageFolder):
            raise InputError(
                "InMemory holds the images of an ImageFolder, ImageNet100 or PerClassSplit, got "
                f"{type(self.dataset).__name__}"
            )
        first = next(iter(self.dataset.pipeline.transforms), None)
        if not isinstance(first, LoadWhole):
            raise InputError(
                "InMemory keeps what mmsalmask.LoadWhole makes of an image: let the pipeline of "
                "its dataset begin with it"
            )
        self._load, self._rest = first, self.dataset.pipeline.transforms[1:]

    @property
    def metainfo(self) -> dict:
        return self.dataset.metainfo

    @property
    def fingerprint(self) -> dict:
        """That of the wrapped dataset, whose images keep their positions here."""
        return fingerprint(self.dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def get_data_info(self, index: int) -> dict:
        return self.dataset.get_data_info(index)

    def full_init(self) -> None:
        """Decode everything, once."""
        if self._initialized:
            return
        self.dataset.full_init()
        size, processes = self._load.size, int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        shape = (len(self), self._load.channels, size, size)
        needed = math.prod(shape) * self._load.dtype.itemsize * processes
        there = available_memory()
        if needed > _SHARE * there:
            copies = f" in each of {processes} processes" if processes > 1 else ""
            raise InputError(
                f"{len(self)} images of {size}x{size} px{copies} take {needed / 2**30:.1f} GiB, "
                f"which does not fit into the {there / 2**30:.1f} GiB that are available: use the "
                "dataset without InMemory, or a smaller LoadWhole.size"
            )
        self.images = torch.empty(shape, dtype=self._load.dtype)
        self.sizes = torch.zeros(len(self), 2, dtype=torch.int64)
        self._decode()
        self._initialized = True

    def _decode(self) -> None:
        """Fill the memory, by a thread per core: decoding and resizing let other threads run."""
        logger = MMLogger.get_current_instance()
        start = reported = time.monotonic()
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(_cores()) as pool:
                for done, _ in enumerate(pool.map(self._decode_one, range(len(self))), 1):
                    now = time.monotonic()
                    if now - reported > _SECONDS_BETWEEN_REPORTS:
                        reported = now
                        left = (now - start) / done * (len(self) - done)
                        share = 100 * done / len(self)
                        logger.info(
                            f"decoded {done} of {len(self)} images ({share:.0f} %), "
                            f"{left / 60:.1f} minutes left"
                        )
        finally:
            torch.set_num_threads(threads)
        broken = int(self.dataset.broken.sum())
        logger.info(
            f"decoded {len(self)} images in {time.monotonic() - start:.0f} s, "
            f"{self.images.nbytes / 2**30:.2f} GiB, {broken} of them broken"
        )

    def _decode_one(self, index: int) -> None:
        try:
            results = self._load(self.dataset.get_data_info(index))
        except BrokenImage as broken:
            self.dataset.mark_broken(index, broken)
            return
        self.images[index] = results["img"]
        self.sizes[index] = torch.tensor(results["ori_shape"])

    def __getitem__(self, index: int) -> dict:
        """What the pipeline makes of image ``index`` or, if it is broken, of its replacement.

        Raises:
            InputError: if that and all tried instead are broken.
        """
        self.full_init()
        index = self.dataset.readable(range(len(self))[index])
        results = self.dataset.get_data_info(index)
        results["img"] = torch.tensor(index) if self.resident else self.images[index]
        results["ori_shape"] = tuple(self.sizes[index].tolist())
        results["img_shape"] = (self._load.size, self._load.size)
        for transform in self._rest:
            results = transform(results)
        return results


def resident_datasets(dataset: Dataset) -> Iterator[InMemory]:
    """The datasets, itself or inside wrappers, that hand on positions instead of pixels."""
    held = (part for part in every_dataset(dataset) if isinstance(part, InMemory))
    return (part for part in held if part.resident)


def available_memory() -> int:
    """Bytes that this process could still fill, within a container's limit where there is one."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        free = 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())  # "max" where there is none
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(stat["inactive_file"])
    except (OSError, ValueError, KeyError):
        return free
    return min(free, limit - used)


def _cores() -> int:
    """Cores of this process, shared with the other processes of a distributed run."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, own // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
