"""The index of a set of tar shards: where each image lies, found once and kept in a file.

It is one safetensors file of arrays, mapped into memory, so that all workers share it, and in its
metadata the names, sizes and times of the shards it was made of.
"""

import hashlib
import json
import os
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.logging import MMLogger
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mmsalmask.data.storage.names import Names
from mmsalmask.data.storage.tar_members import members
from mmsalmask.errors import NotWritten
from mmsalmask.files import write_atomically

_FORMAT = 2
_KEY = "mmsalmask_shards"
_SECONDS_BETWEEN_REPORTS = 10
# More classes than this are no numbers of classes.
_MOST_CLASSES = 100_000


class Index(NamedTuple):
    """Where the images of a set of shards lie; entry i of each array belongs to image i.

    Attributes:
        names: of the images.
        offsets: int64, of an image's first byte in its shard.
        sizes: int64, bytes of an image.
        shards: int32, which shard it lies in.
        labels: int32, its class, −1 for none.
        classes: names of the classes.
        skipped: what is no image, by kind.
        file: the one in which the arrays lie; empty while they do not.
    """

    names: Names
    offsets: np.ndarray
    sizes: np.ndarray
    shards: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    skipped: Counter
    file: str = ""

    def __reduce__(self) -> tuple:
        # Another process maps the same file instead of receiving a copy.
        return (load_index, (self.file,)) if self.file else (Index, tuple(self))

    @property
    def nbytes(self) -> int:
        """What it takes in memory, in all workers together."""
        parts = (self.names.packed, self.names.ends, *self[1:5])
        return sum(part.nbytes for part in parts)


def open_index(root: str, shards: Sequence[str], extensions: Sequence[str]) -> Index:
    """The index of these shards, from its file or, where that is absent or old, made anew.

    The file lies beside the shards or, where nothing can be written there, in the user's cache
    folder. It is old if a shard was added, removed, or has another size or time.

    Args:
        root: the folder of the shards, or the one tar file.
        shards: their paths, in order.
        extensions: of the members that are images.

    Raises:
        InputError: a shard is no tar file that can be read.
    """
    identity = _identity(shards, extensions)
    for file in _places(root):
        with suppress(OSError, SafetensorError, KeyError, ValueError):
            if (index := load_index(file, identity)) is not None:
                return index
    return save_index(build_index(shards, extensions), root, shards, extensions)


def save_index(index: Index, root: str, shards: Sequence[str], extensions: Sequence[str]) -> Index:
    """Keep an index of these shards; returns it, mapped from its file where one could be written.

    Arguments as in :func:`open_index`.
    """
    content = _serialise(index, _identity(shards, extensions))
    for file in _places(root):
        with suppress(NotWritten, OSError):
            write_atomically(file, content)
            return load_index(file)
    return index


def build_index(shards: Sequence[str], extensions: Sequence[str]) -> Index:
    """Read the headers of all shards, which takes seconds per hundred thousand images."""
    logger = MMLogger.get_current_instance()
    start = reported = time.monotonic()
    found = _Found(frozenset(extensions))
    for number, path in enumerate(shards):
        found.add(number, path)
        if time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS:
            reported = time.monotonic()
            minutes = (reported - start) / (number + 1) * (len(shards) - number - 1) / 60
            logger.info(
                f"looked into {number + 1} of {len(shards)} shards, {len(found.names)} images, "
                f"{minutes:.1f} minutes left"
            )
    labels, classes = _number(found.told) if any(found.told) else _sort(found.folders)
    return Index(
        names=Names.pack(found.names),
        offsets=np.array(found.offsets, dtype=np.int64),
        sizes=np.array(found.sizes, dtype=np.int64),
        shards=np.array(found.shards, dtype=np.int32),
        labels=labels,
        classes=classes,
        skipped=found.skipped,
    )


class _Found:
    """The images found so far, and what tells their classes.

    In WebDataset's layout a sample is all members of one name up to the first dot in it; what
    follows the dot says what a member is. So ``7.jpg`` is an image, and ``7.seg.png`` is none. The
    class is the content of the sample's ``.cls``, or the first folder of the image's name.
    """

    def __init__(self, wanted: frozenset) -> None:
        self.wanted = wanted
        self.names: list[str] = []
        self.told: list[str | None] = []
        self.folders: list[str | None] = []
        self.offsets, self.sizes, self.shards = array("q"), array("q"), array("i")
        self.skipped: Counter = Counter()
        self._known: dict[str, str] = {}  # one object per class, not one per image

    def add(self, number: int, path: str) -> None:
        """Add the images of a shard."""
        keys, classes = [], {}
        for member in members(path):
            folder, base = os.path.split(member.name)
            stem, dot, kind = base.partition(".")
            key, kind = os.path.join(folder, stem), dot + kind.lower()
            if member.size < 0:
                self.skipped["link"] += 1
            elif kind in self.wanted:
                keys.append(key)
                self.names.append(member.name)
                self.offsets.append(member.offset)
                self.sizes.append(member.size)
                self.shards.append(number)
                self.folders.append(self._once(member.name.partition("/")[0]) if folder else None)
            elif kind == ".cls":
                classes[key] = member
            else:
                self.skipped[kind or "without extension"] += 1
        with open(path, "rb") as file:
            for key, member in classes.items():
                file.seek(member.offset)
                classes[key] = self._once(file.read(member.size).decode(errors="replace").strip())
        self.told += [classes.get(key) for key in keys]

    def _once(self, text: str) -> str:
        return self._known.setdefault(text, text)


def _number(told: Sequence[str | None]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels (N,) int32 and classes, as ``.cls`` tells them: numbers count for themselves."""
    words = {word for word in told if word}
    if not all(word.isdecimal() and int(word) < _MOST_CLASSES for word in words):
        return _sort(told)
    labels = np.array([int(word) if word else -1 for word in told], dtype=np.int32)
    return labels, tuple(map(str, range(labels.max(initial=-1) + 1)))


def _sort(told: Sequence[str | None]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels (N,) int32 and classes: words, sorted as the subfolders of a folder are."""
    classes = tuple(sorted({word for word in told if word}))
    own = {name: label for label, name in enumerate(classes)}
    return np.array([own.get(word, -1) for word in told], dtype=np.int32), classes


def _identity(shards: Sequence[str], extensions: Sequence[str]) -> dict:
    """What an index was made of, JSON values."""
    stamps = [_stamp(path) for path in shards]
    return {"format": _FORMAT, "extensions": sorted(extensions), "shards": stamps}


def _stamp(path: str) -> list:
    """What tells a shard from what it was before: name, size, time of the last change."""
    status = os.stat(path)
    return [os.path.basename(path), status.st_size, status.st_mtime_ns]


def _places(root: str) -> list[Path]:
    """Where an index may lie: beside the shards, or in the user's cache folder."""
    path = Path(root).resolve()
    name = f".{path.name}.mmsalmask-index" if path.is_file() else ".mmsalmask-index"
    cache = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmsalmask" / "shards"
    )
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return [(path.parent if path.is_file() else path) / name, cache / digest]


def _serialise(index: Index, identity: dict) -> bytes:
    arrays = {
        "packed": index.names.packed,
        "ends": index.names.ends,
        "offsets": index.offsets,
        "sizes": index.sizes,
        "shards": index.shards,
        "labels": index.labels,
    }
    told = {**identity, "classes": index.classes, "skipped": index.skipped}
    tensors = {name: torch.from_numpy(values.copy()) for name, values in arrays.items()}
    return save(tensors, {_KEY: json.dumps(told)})


def load_index(file: str | Path, identity: dict | None = None) -> Index | None:
    """The index of a file, its arrays left in it; ``None`` if it is not of these shards."""
    with safe_open(file, framework="pt") as content:
        told = json.loads((content.metadata() or {})[_KEY])
        if identity is not None and {key: told[key] for key in identity} != identity:
            return None
        names = ("packed", "ends", "offsets", "sizes", "shards", "labels")
        packed, ends, *rest = (content.get_tensor(name).numpy() for name in names)
    told = tuple(told["classes"]), Counter(told["skipped"])
    return Index(Names(packed, ends), *rest, *told, str(file))
