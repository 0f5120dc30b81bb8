"""What counts as images wherever ``data`` is asked for."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmsalmask.checks import check_integer
from mmsalmask.data import ImageFolder
from mmsalmask.data.image_folder import check_folder
from mmsalmask.data.image_list import read_paths
from mmsalmask.data.loading import EXTENSIONS
from mmsalmask.errors import InputError

Data = str | os.PathLike | Sequence[str | os.PathLike]


def is_list_file(path: str | os.PathLike) -> bool:
    """Whether it is a file of paths, which is called so, or has no extension."""
    path = Path(path).expanduser()
    return path.is_file() and path.suffix.lower() in (".txt", ".lst", "")


def image_paths(data: Data, extensions: Sequence[str] = EXTENSIONS) -> list[str]:
    """The paths of images.

    Args:
        data: a folder, in which images are searched to any depth; an image; a text file with a
            path a line; or a list of any of these. Each image counts once, at its first place.
        extensions: of the files that are images.

    Raises:
        InputError: a folder or file is missing, or there are no images.
    """
    several = data if isinstance(data, Iterable) and not isinstance(data, str) else [data]
    found = list(dict.fromkeys(path for part in several for path in _paths(part, extensions)))
    if not found:
        raise InputError("there are no images: data is an empty list")
    return found


def evenly(paths: list[str], number: int) -> list[str]:
    """At most so many of the paths, evenly spread."""
    count = min(len(paths), check_integer("images", number))
    return [paths[place * len(paths) // count] for place in range(count)]


def _paths(part: str | os.PathLike, extensions: Sequence[str]) -> list[str]:
    if not isinstance(part, str | os.PathLike):
        raise InputError(
            "data must be a folder of images, the path of an image, a .txt file of paths, or a "
            f"list of these, not {type(part).__name__}"
        )
    path = os.path.expanduser(os.fspath(part))
    if is_list_file(path):
        return read_paths(path)
    if os.path.isfile(path) and Path(path).suffix.lower() in extensions:
        return [path]
    check_folder(path, "give a folder of images, an image, or a .txt file of paths")
    folder = ImageFolder(path, extensions=extensions)
    return [folder.get_data_info(index)["img_path"] for index in range(len(folder))]
