"""Pack images into tar shards in WebDataset's layout, which read faster from shared storage."""

import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mmsalmask.checks import check_integer
from mmsalmask.data.image_folder import check_folder
from mmsalmask.data.loading import EXTENSIONS, extension_of
from mmsalmask.data.storage import Storage, open_storage
from mmsalmask.errors import InputError, some_names

# A gigabyte is what WebDataset's makers advise: large enough to read on without a pause.
SHARD_BYTES = 10**9


class Packed(NamedTuple):
    """What :func:`pack` did.

    Attributes:
        shards: how many tar files there are.
        images: how many images lie in them.
        bytes: of these images.
        left_out: names of what could not be read, or is no image.
        renamed: how many names had dots beside the one before their extension.
    """

    shards: int
    images: int
    bytes: int
    left_out: list[str]
    renamed: int


def pack(
    source: str | Path,
    out: str | Path,
    shard_bytes: int = SHARD_BYTES,
    extensions: Sequence[str] = EXTENSIONS,
    progress: Callable[[int, int], None] | None = None,
) -> Packed:
    """Copy the files of all images, as they are, into ``out/shard-000000.tar``, ….

    ``data_root=out`` is then what ``data_root=source`` is: the same images in the same order with
    the same classes, and a saliency cache made of one serves the other. A class that is not the
    first folder of the name is written as the sample's ``.cls``. In WebDataset's layout an
    extension begins at the first dot of a name, so other dots become ``_``. What cannot be opened,
    or has no name and is no image, is left out; whether an image is whole is found out in training,
    as in a folder.

    The shards appear when all are complete. They depend on the images alone: packing twice gives
    the same bytes.

    >>> pack("data/demo/train", "data/demo-shards", shard_bytes=10**7)  # doctest: +SKIP
    Packed(shards=2, images=2000, bytes=17843210, left_out=[], renamed=0)

    Args:
        source: a folder of images, a tar file or any other storage that ``data_root`` may name.
        out: the folder of the shards, which does not exist yet.
        shard_bytes: a new shard begins when one has so many.
        extensions: of the files that are images.
        progress: is told how many images are done, of how many.

    Raises:
        InputError: there are no images, ``out`` exists, or two images would have one name.
        OSError: a shard cannot be written.
    """
    check_integer("shard_bytes", shard_bytes)
    source, out = os.path.expanduser(source), Path(out).expanduser()
    check_folder(source, "name a folder of images, a tar file or a Hugging Face dataset")
    if out.exists():
        raise InputError(f"{out} exists: name another folder for the shards, or delete it")
    storage = open_storage(source, extensions)
    if not len(storage.names):
        raise InputError(f"{source} has no images: looked for {' '.join(extensions)}")
    names, renamed = _names(storage, source)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made ({error.strerror}): name another folder") from error
    try:
        counts = _write(storage, names, part, shard_bytes, progress or (lambda done, of: None))
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Packed(*counts, renamed)


def _names(storage: Storage, source: str) -> tuple[list[str], int]:
    """The members' names, with one dot each, and how many had to be changed for that."""
    names, seen, renamed = [], set(), 0
    for name in storage.names:
        stem, extension = os.path.splitext(name)
        folder, base = os.path.split(stem)
        plain = os.path.join(folder, base.replace(".", "_"))
        renamed += plain != stem
        if plain in seen:
            raise InputError(
                f"{some_names([name])} of {source} and another image there differ by dots or "
                "extension alone, and WebDataset would take them for one: rename one of them"
            )
        seen.add(plain)
        names.append(plain + extension)
    return names, renamed


def _write(
    storage: Storage,
    names: list[str],
    folder: Path,
    shard_bytes: int,
    progress: Callable[[int, int], None],
) -> tuple[int, int, int, list[str]]:
    """The shards; returns how many there are, images and bytes in them, and what is left out."""
    shard, filled, images, total, left_out = None, 0, 0, 0, []
    shards, classes = _new_shards(folder), _classes(storage)
    try:
        for place, name in enumerate(names):
            try:
                content = storage.read(place)
            except OSError:
                left_out.append(name)
                continue
            stem, extension = os.path.splitext(name)
            extension = extension or extension_of(content)  # a row of a dataset that has no names
            if not extension:
                left_out.append(name)
                continue
            if shard is None or filled >= shard_bytes:
                shard, filled = next(shards), 0
            _add(shard, stem + extension, content)
            if classes and storage.labels[place] >= 0:
                _add(shard, f"{stem}.cls", classes[storage.labels[place]].encode())
            images, total, filled = images + 1, total + len(content), filled + len(content)
            progress(place + 1, len(names))
    finally:
        shards.close()
    return len(list(folder.iterdir())), images, total, left_out


def _classes(storage: Storage) -> tuple[str, ...]:
    """The names of the classes, if the images' first folders do not tell them."""
    if storage.labels is None:
        return ()
    for name, label in zip(storage.names, storage.labels, strict=True):
        told = storage.classes[label] if label >= 0 else ""
        if told != name.rpartition("/")[0].partition("/")[0]:
            return storage.classes
    return ()


def _add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    shard.addfile(entry, io.BytesIO(content))


def _new_shards(folder: Path) -> Iterator[tarfile.TarFile]:
    """One open shard after the other; the last one is closed with the generator."""
    number = 0
    while True:
        path = folder / f"shard-{number:06d}.tar"
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as shard:
            yield shard
        number += 1
