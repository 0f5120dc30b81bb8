"""A million names in one array of bytes, which all workers share."""

import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

_AT_ONCE = 1 << 16


class Names(Sequence):
    """Texts, packed: a list of a million strings would be copied into every worker.

    >>> names = Names.pack(["cat/1.jpg", "dog/2.jpg"])
    >>> names[1], len(names)
    ('dog/2.jpg', 2)

    Args:
        packed: (B,) uint8, the texts one behind the other, each with a zero byte at its end.
        ends: (N,) int64, where each text ends, its zero byte included.
    """

    def __init__(self, packed: np.ndarray, ends: np.ndarray) -> None:
        self.packed = packed
        self.ends = ends

    @classmethod
    def pack(cls, texts: Iterable[str]) -> "Names":
        """Pack texts, in the encoding of the file system's names."""
        encoded = [os.fsencode(text) + b"\0" for text in texts]
        ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, place: int) -> str:
        place = range(len(self))[place]
        start = int(self.ends[place - 1]) if place else 0
        return os.fsdecode(self.packed[start : int(self.ends[place]) - 1].tobytes())

    def encoded(self, places: np.ndarray) -> Iterator[bytes]:
        """The texts at these places, each with its zero byte, in parts of many."""
        starts = self.ends - np.diff(self.ends, prepend=0)
        for first in range(0, len(places), _AT_ONCE):
            part = places[first : first + _AT_ONCE]
            lengths = self.ends[part] - starts[part]
            shift = starts[part] - (np.cumsum(lengths) - lengths)
            yield self.packed[np.repeat(shift, lengths) + np.arange(lengths.sum())].tobytes()
