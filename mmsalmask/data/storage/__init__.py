"""Where images lie: a folder, tar shards, a Hugging Face dataset. Which one, ``data_root`` says.

Each is a :class:`Storage`: names in a fixed order, labels, and the bytes of one image. Nothing
behind :func:`open_storage` asks which kind it is.
"""

import os
import tarfile
from collections.abc import Sequence

from mmsalmask.data.storage.arrow import ArrowImages, is_saved_dataset, parquet_files
from mmsalmask.data.storage.base import Storage, StoredPath, file_identity, opened
from mmsalmask.data.storage.folder import Folder, is_folder, list_folder, subfolders
from mmsalmask.data.storage.listing import Listing, list_all, list_classes
from mmsalmask.data.storage.names import Names
from mmsalmask.data.storage.tar_shards import TarShards, shards_of

__all__ = [
    "ArrowImages",
    "Folder",
    "Listing",
    "Names",
    "Storage",
    "StoredPath",
    "TarShards",
    "class_names",
    "file_identity",
    "is_storage_file",
    "kind_of",
    "list_all",
    "list_classes",
    "open_storage",
    "opened",
]


def open_storage(
    root: str, extensions: Sequence[str], classes: Sequence[str] | None = None
) -> Storage:
    """The images of a data root.

    A tar file is a set of shards, and so is a folder that holds tar files and neither subfolders
    nor images; a folder that ``datasets`` saved, or that holds Parquet files in the same way, is a
    Hugging Face dataset; any other folder is a folder of images.

    Args:
        root: a folder or a tar file, which exists.
        extensions: of files that are images, in small letters, with their dot.
        classes: of a folder, the subfolders to search; by default all of it is searched.

    Raises:
        InputError: it cannot be read.
    """
    kind = kind_of(root, extensions)
    if kind is ArrowImages:
        return ArrowImages(root)
    return Folder(root, extensions, classes) if kind is Folder else TarShards(root, extensions)


def class_names(root: str, extensions: Sequence[str]) -> list[str]:
    """The classes of a data root: of a folder its subfolders."""
    if kind_of(root, extensions) is Folder:
        return subfolders(root)
    return list(open_storage(root, extensions).classes)


def kind_of(root: str, extensions: Sequence[str]) -> type[Storage]:
    """What kind of storage a data root is."""
    if is_storage_file(root):
        return TarShards
    if is_saved_dataset(root):
        return ArrowImages
    wanted = frozenset(extensions)
    for entry in list_folder(root):
        if is_folder(entry) or os.path.splitext(entry.name)[1].lower() in wanted:
            return Folder
    if shards_of(root):
        return TarShards
    return ArrowImages if parquet_files(root) else Folder


def is_storage_file(path: str) -> bool:
    """Whether it is a file that holds images: a tar."""
    try:
        return os.path.isfile(path) and tarfile.is_tarfile(path)
    except OSError:
        return False
