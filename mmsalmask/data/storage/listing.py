"""Which images of a storage a dataset has, in which order, with which labels."""

from collections.abc import Iterator, Sequence

import numpy as np

from mmsalmask.data.storage.base import Storage


class Listing(Sequence):
    """The data list of a dataset, of which nothing but three arrays exists.

    An item is a dict of ``img_path``, ``gt_label`` where there are labels, and ``position``, the
    image's number in the listing that this one was taken from.

    Args:
        storage: where the images lie.
        places: (N,) integers, the images' places in it.
        labels: (N,) integers; ``None`` for a listing without labels.
        positions: (N,) integers; by default the listing counts for itself.
    """

    def __init__(
        self,
        storage: Storage,
        places: np.ndarray,
        labels: np.ndarray | None = None,
        positions: np.ndarray | None = None,
    ) -> None:
        self.storage = storage
        self.places = places
        self.labels = labels
        self.positions = np.arange(len(places), dtype=np.int32) if positions is None else positions

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict:
        info = {"img_path": self.storage.path(int(self.places[index]))}
        if self.labels is not None:
            info["gt_label"] = int(self.labels[index])
        return {**info, "position": int(self.positions[index])}

    def take(self, indices: int | Sequence[int] | np.ndarray) -> "Listing":
        """The first so many images, from a negative number the last, or these."""
        if isinstance(indices, int):
            kept = slice(indices) if indices >= 0 else slice(indices, None)
        else:
            kept = np.asarray(indices, dtype=np.int64)
        labels = None if self.labels is None else self.labels[kept]
        return Listing(self.storage, self.places[kept], labels, self.positions[kept])

    def without_labels(self) -> "Listing":
        return Listing(self.storage, self.places, None, self.positions)

    def renumbered(self) -> "Listing":
        """The same images, counted from 0 on."""
        return Listing(self.storage, self.places, self.labels)

    def encoded_names(self) -> Iterator[bytes]:
        """The images' names, each with a zero byte at its end, in parts of many."""
        return self.storage.names.encoded(self.places)

    def sizes(self, most: int) -> list[int]:
        """Bytes of the files of up to ``most`` images, evenly spread."""
        spread = self.places[:: max(1, len(self) // most)][:most]
        return [self.storage.size(int(place)) for place in spread]


def list_all(storage: Storage) -> Listing:
    """Every image, in the order of the storage."""
    return Listing(storage, np.arange(len(storage.names), dtype=np.int32))


def list_classes(storage: Storage, classes: Sequence[str]) -> Listing:
    """The images of these classes, class by class; labels count these classes."""
    own = {name: label for label, name in enumerate(classes)}
    table = np.array([own.get(name, -1) for name in storage.classes] + [-1], dtype=np.int32)
    labels = table[storage.labels]  # −1, of an image without, meets the −1 at the end
    kept = np.flatnonzero(labels >= 0)
    order = kept[np.argsort(labels[kept], kind="stable")].astype(np.int32)
    return Listing(storage, order, labels[order])
