"""Datasets inside datasets: repeated, joined, held in memory."""

from collections.abc import Iterator

from torch.utils.data import Dataset


def inner_datasets(dataset: Dataset) -> list[Dataset]:
    """What a wrapper holds as ``dataset`` or ``datasets``; nothing for a plain dataset."""
    if hasattr(dataset, "dataset"):
        return [dataset.dataset]
    return list(getattr(dataset, "datasets", []))


def every_dataset(dataset: Dataset) -> Iterator[Dataset]:
    """The dataset, and all that lie inside it, each before those that it holds itself."""
    yield dataset
    for part in inner_datasets(dataset):
        yield from every_dataset(part)


def base_datasets(dataset: Dataset) -> list[Dataset]:
    """The datasets that one consists of: itself, or those inside wrappers."""
    return [part for part in every_dataset(dataset) if not inner_datasets(part)]
