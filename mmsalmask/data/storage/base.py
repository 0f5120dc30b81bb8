"""What every storage of images can do, and the path of an image inside of one."""

import io
import os
from abc import ABC, abstractmethod
from collections import Counter
from typing import BinaryIO

import numpy as np

from mmsalmask.data.storage.names import Names


class Storage(ABC):
    """Images in a fixed order, each with a name, read by their place in that order.

    Attributes:
        root: what ``data_root`` says.
        names: of the images, relative to ``root``, folders divided by ``/``.
        labels: int32 (N,), the class of each image, −1 for one without; ``None`` if none was
            looked for.
        classes: their names; empty where there are none.
        skipped: a count of what is no image, by kind.
    """

    root: str
    names: Names
    labels: np.ndarray | None
    classes: tuple[str, ...]
    skipped: Counter

    def path(self, place: int) -> str:
        """What the image is called in messages, and what ``read_image`` takes."""
        return StoredPath.of(self, place)

    @abstractmethod
    def read(self, place: int) -> bytes:
        """The file of the image, as it was stored.

        Raises:
            OSError: it cannot be read, or not all of it is there.
        """

    @abstractmethod
    def size(self, place: int) -> int:
        """Bytes of the image's file; −1 where that cannot be told."""

    def unlabelled(self) -> list[str]:
        """The names of images without a class."""
        return [self.names[int(place)] for place in np.flatnonzero(self.labels < 0)]

    def identity(self, place: int) -> tuple:
        """What tells the image from every other, whatever it is called."""
        return os.path.realpath(self.root), place

    def __deepcopy__(self, memo: dict) -> "Storage":
        return self  # nothing in it ever changes


class StoredPath(str):
    """The path of an image inside of a storage: a text that can also be opened.

    ``read_image`` and all else that takes the path of an image takes this one, too. Sent to another
    process it becomes the plain text.
    """

    storage: Storage
    place: int

    @classmethod
    def of(cls, storage: Storage, place: int) -> "StoredPath":
        path = cls(os.path.join(storage.root, storage.names[place]))
        path.storage, path.place = storage, place
        return path

    def open(self) -> BinaryIO:
        """The bytes of the image, from their beginning."""
        return io.BytesIO(self.storage.read(self.place))

    def __reduce__(self) -> tuple:
        return str, (str(self),)

    def __deepcopy__(self, memo: dict) -> "StoredPath":
        return self


def opened(path: str | os.PathLike) -> BinaryIO:
    """The bytes of an image, of a file or of a storage, from their beginning."""
    return path.open() if isinstance(path, StoredPath) else open(path, "rb")


def file_identity(path: str) -> tuple:
    """What tells an image file from every other, whatever links lead to it.

    Raises:
        OSError: there is no such file.
    """
    if isinstance(path, StoredPath):
        return path.storage.identity(path.place)
    status = os.stat(path)
    return status.st_dev, status.st_ino
