"""Tar shards in WebDataset's layout, each image read from where its shard holds it."""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence

from mmsalmask.data.storage.base import Storage
from mmsalmask.data.storage.tar_index import Index, open_index

# Shards that a process keeps open; the others are opened again when they are read.
MOST_OPEN = 8


class _OpenFiles:
    """The files read last, kept open."""

    def __init__(self) -> None:
        self._numbers: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, path: str, offset: int, size: int) -> bytes:
        with self._lock:  # or another thread closes the file meanwhile
            if path not in self._numbers:
                self._numbers[path] = os.open(path, os.O_RDONLY)
                if len(self._numbers) > MOST_OPEN:
                    os.close(self._numbers.popitem(last=False)[1])
            self._numbers.move_to_end(path)
            return os.pread(self._numbers[path], size, offset)

    def __len__(self) -> int:
        return len(self._numbers)


OPEN_FILES = _OpenFiles()


class TarShards(Storage):
    """The images of tar files, in the order of the files' names and of their members.

    Made by ``mmsalmask data pack``, by webdataset or by img2dataset; also one tar file, and tars
    inside of a tar, as ImageNet's training images come.

    Args:
        root: the folder of the tar files, or one tar file.
        extensions: of the members that are images.

    Raises:
        InputError: a tar cannot be read.
    """

    def __init__(self, root: str, extensions: Sequence[str]) -> None:
        self.root = root
        self.shards = shards_of(root)
        self._use(open_index(root, self.shards, extensions))

    def _use(self, index: Index) -> None:
        self.index = index
        self.names, self.skipped = index.names, index.skipped
        self.labels, self.classes = index.labels, index.classes

    def __getstate__(self) -> tuple:
        return self.root, self.shards, self.index  # which tells where to map it, see Index

    def __setstate__(self, state: tuple) -> None:
        self.root, self.shards, index = state
        self._use(index)

    def read(self, place: int) -> bytes:
        size = self.size(place)
        shard = self.shards[self.index.shards[place]]
        content = OPEN_FILES.read(shard, int(self.index.offsets[place]), size)
        if len(content) < size:
            raise OSError(f"{shard} ends inside of it")
        return content

    def size(self, place: int) -> int:
        return int(self.index.sizes[place])

    def identity(self, place: int) -> tuple:
        shard = os.path.realpath(self.shards[self.index.shards[place]])
        return shard, int(self.index.offsets[place])


def shards_of(root: str) -> list[str]:
    """The tar files that a data root stands for, sorted by name; hidden ones are left out."""
    if not os.path.isdir(root):
        return [root]
    names = sorted(name for name in os.listdir(root) if name.lower().endswith(".tar"))
    return [os.path.join(root, name) for name in names if not name.startswith(".")]
