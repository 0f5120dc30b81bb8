"""A data loader whose samples depend on where in the run they are drawn, and on nothing else.

PyTorch seeds its workers once, so that what a sample looks like depends on which worker loads it
and on all that this worker loaded before: no run could be taken up in the middle. Here the batch
sampler hands each index over with its place in the run, and the dataset seeds all generators by
that place. So the same images come with the same augmentation whatever the number of workers,
after an interruption, and, for the same global batch, on another number of processes.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_rank, get_world_size
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Sampler

from mmsalmask.engine.resume.randomness import kept_generators, seed_generators
from mmsalmask.engine.resume.stopping import keep_worker_alive

# Index of the sample, epoch, and place of the draw among those of all processes in this epoch.
Draw = tuple[int, int, int]


class SeededDataset(Dataset):
    """A dataset whose sample depends on the seed and the draw alone.

    Everything but the samples (``metainfo``, ``get_data_info``, …) is the wrapped dataset's.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, draw: Draw) -> Any:
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: list[Draw]) -> list[Any]:
        """The samples of a batch, as a loader asks for them.

        The generators' states are kept once a batch: that costs more than a sample which only
        names a resident image.
        """
        samples = []
        with kept_generators():
            for index, *place in draws:
                seed_generators(self.seed, *place)
                samples.append(self.dataset[index])
        return samples

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # not there yet, while being unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)


def unseeded(dataset: Dataset) -> Dataset:
    """The dataset inside a :class:`SeededDataset`; any other dataset as it is."""
    return dataset.dataset if isinstance(dataset, SeededDataset) else dataset


class DrawSampler(Sampler):
    """Batches of another batch sampler as draws, from any place of an epoch on."""

    def __init__(self, batches: BatchSampler) -> None:
        self.batches = batches
        self.sampler = batches.sampler
        self.batch_size = batches.batch_size
        self.drop_last = getattr(batches, "drop_last", False)
        self._epoch = self._first = 0

    @property
    def endless(self) -> bool:
        """Whether there is one epoch without end."""
        return isinstance(self.sampler, InfiniteSampler)

    def start(self, epoch: int, first: int = 0) -> None:
        """Let the next iteration begin with batch ``first`` of this epoch."""
        self._epoch, self._first = epoch, first
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, place = self._epoch, self._first * self.batch_size
        rank, processes = get_rank(), get_world_size()
        # What was trained before is listed and passed over, not loaded.
        for batch in islice(self.batches, self._first, None):
            yield [(index, epoch, (place + i) * processes + rank) for i, index in enumerate(batch)]
            place += len(batch)

    def __len__(self) -> int:
        return len(self.batches)


def seeded_loader(loader: DataLoader, seed: int) -> DataLoader:
    """The same loader with a :class:`SeededDataset` and a :class:`DrawSampler`.

    A loader of an iterable dataset, which has no places, is returned as it is.
    """
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        return loader
    return DataLoader(
        SeededDataset(loader.dataset, seed),
        batch_sampler=DrawSampler(loader.batch_sampler),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=keep_worker_alive(loader.worker_init_fn),
        multiprocessing_context=loader.multiprocessing_context,
        # Without one of its own, a loader takes a seed from the stream of training.
        generator=torch.Generator(),
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )
