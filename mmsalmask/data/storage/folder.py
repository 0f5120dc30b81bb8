"""A folder of image files, searched to any depth."""

import os
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mmsalmask.data.storage.base import Storage
from mmsalmask.data.storage.names import Names
from mmsalmask.errors import InputError, some_names


class Folder(Storage):
    """Every image below a folder, sorted by path; see :class:`mmsalmask.data.ImageFolder`.

    Args:
        root: the folder.
        extensions: of the files that are images, in small letters.
        classes: subfolders to search, one after the other, instead of all of it.
    """

    def __init__(
        self, root: str, extensions: Sequence[str], classes: Sequence[str] | None = None
    ) -> None:
        self.root, self.extensions = root, tuple(extensions)
        self.classes = () if classes is None else tuple(classes)
        self.labels, self.skipped = None, Counter()
        prefix = len(os.path.join(root, ""))
        if classes is None:
            found = [_find_images(root, extensions)]
        else:
            found = [_find_images(os.path.join(root, name), extensions) for name in classes]
            sizes = [len(paths) for paths, _ in found]
            self.labels = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
            self._refuse_empty(sizes)
        self.names = Names.pack(path[prefix:] for paths, _ in found for path in paths)
        for _, others in found:
            self.skipped += others

    def _refuse_empty(self, sizes: Sequence[int]) -> None:
        """Refuse classes without images beside others that have some."""
        empty = [name for name, size in zip(self.classes, sizes, strict=True) if not size]
        if empty and any(sizes):
            raise InputError(
                f"{some_names(empty)} below {self.root} hold no images though each subfolder "
                "is a class: remove them or add images"
            )

    def unlabelled(self) -> list[str]:
        return sorted(
            entry.name
            for entry in list_folder(self.root)
            if os.path.splitext(entry.name)[1].lower() in self.extensions and not is_folder(entry)
        )

    def path(self, place: int) -> str:
        return os.path.join(self.root, self.names[place])

    def read(self, place: int) -> bytes:
        with open(self.path(place), "rb") as file:
            return file.read()

    def size(self, place: int) -> int:
        return file_size(self.path(place))


def file_size(path: str) -> int:
    """Bytes of a file; −1 of a link that leads nowhere, which is an image, a broken one."""
    try:
        return os.path.getsize(path)
    except OSError:
        return -1


def subfolders(folder: str) -> list[str]:
    """The names of the folders in a folder, sorted, without hidden ones."""
    return sorted(entry.name for entry in list_folder(folder) if is_folder(entry))


def list_folder(folder: str) -> list[os.DirEntry]:
    """What lies in a folder, without hidden names, in no particular order.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(
            f"folder {folder} cannot be read ({error.strerror}): give it the right permissions or "
            "remove it"
        ) from error


def is_folder(entry: os.DirEntry) -> bool:
    """Whether it is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_file(entry: os.DirEntry) -> bool:
    """Whether it is a file or a link that leads nowhere; pipes and devices would block a reader."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:  # a link to itself
        return True


def _find_images(root: str, extensions: Sequence[str]) -> tuple[list[str], Counter]:
    """All images below a folder, sorted, and a count of the other files by extension."""
    wanted = frozenset(extensions)
    images, others, seen = [], Counter(), set()
    folders = [root]
    while folders:
        folder = folders.pop()
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        inner = []
        for entry in list_folder(folder):
            extension = os.path.splitext(entry.name)[1].lower()
            if is_folder(entry):
                inner.append(entry.path)
            elif extension in wanted and _is_file(entry):
                images.append(entry.path)
            else:
                others[extension or "without extension"] += 1
        # Of two links to one folder the same one must win on every file system.
        folders.extend(sorted(inner, reverse=True))
    images.sort()
    return images, others
