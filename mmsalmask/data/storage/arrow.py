"""A local image dataset of Hugging Face's ``datasets``: Arrow files, or Parquet."""

import os
from collections import Counter

import numpy as np

from mmsalmask.data.storage.base import Storage
from mmsalmask.data.storage.names import Names
from mmsalmask.errors import InputError

_AT_ONCE = 10_000
# Files of save_to_disk: of several splits, and of one.
_SPLITS, _SPLIT = "dataset_dict.json", ("dataset_info.json", "state.json")


class ArrowImages(Storage):
    """The rows of a dataset that ``save_to_disk`` wrote, or of Parquet files, in their order.

    The image is the first column of images; the class that of the first column of classes, or of a
    column of integers called ``label``. Needs the package ``datasets``, which copies Parquet files
    once into Arrow files in its own cache folder.

    Args:
        root: a folder of ``save_to_disk``, or of Parquet files.

    Raises:
        InputError: ``datasets`` is not installed, or there is no column of images.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._rows = _open(root)
        features = self._rows.features
        self.column = _first(features, "Image")
        if self.column is None:
            raise InputError(
                f"{root} has no column of images, but {', '.join(features)}: cast the column to "
                "datasets.Image() and save the dataset again"
            )
        from datasets import Image

        self._rows = self._rows.cast_column(self.column, Image(decode=False))
        self._images = self._rows.select_columns(self.column)
        self.names = Names.pack(self._names())
        self.skipped = Counter()
        self.labels, self.classes = self._labels()

    def _names(self):
        """The files' names where they are told, numbers elsewhere."""
        width = len(str(max(0, len(self._rows) - 1)))
        number = 0
        for table in self._images.with_format("arrow").iter(_AT_ONCE):
            for path in table[self.column].combine_chunks().field("path").to_pylist():
                yield path or f"{number:0{width}d}"
                number += 1

    def _labels(self) -> tuple[np.ndarray | None, tuple[str, ...]]:
        features = self._rows.features
        column = _first(features, "ClassLabel")
        if column is not None:
            classes = tuple(features[column].names)
        elif getattr(features.get("label"), "dtype", "").startswith(("int", "uint")):
            column, classes = "label", None
        else:
            return np.full(len(self._rows), -1, dtype=np.int32), ()
        labels = self._rows.with_format("numpy", columns=[column])[:][column]
        labels = np.asarray(labels, dtype=np.int32)
        if classes is None:
            classes = tuple(map(str, range(labels.max(initial=-1) + 1)))
        return labels, classes

    def read(self, place: int) -> bytes:
        cell = self._images[place][self.column]
        if cell is None:
            raise OSError("the row has no image")
        if cell["bytes"] is not None:
            return cell["bytes"]
        with open(cell["path"], "rb") as file:
            return file.read()

    def size(self, place: int) -> int:
        try:
            return len(self.read(place))
        except OSError:
            return -1


def _open(root: str):
    """The rows, of which nothing is decoded."""
    try:
        from datasets import Dataset, disable_progress_bars, load_from_disk
    except ImportError as error:
        raise InputError(
            f"{root} is a Hugging Face dataset, which the package datasets reads: install it with "
            "`pip install 'mmsalmask[datasets]'`"
        ) from error
    disable_progress_bars()
    if os.path.exists(os.path.join(root, _SPLITS)):
        raise InputError(
            f"{root} holds several splits: set data_root to the folder of one, for example "
            f"{os.path.join(root, 'train')}"
        )
    try:
        if is_saved_dataset(root):
            return load_from_disk(root)
        return Dataset.from_parquet(sorted(parquet_files(root)))
    except (OSError, ValueError) as error:
        raise InputError(f"{root} cannot be read as a dataset ({error}): save it again") from error


def _first(features: dict, *types: str) -> str | None:
    return next((name for name, kind in features.items() if type(kind).__name__ in types), None)


def is_saved_dataset(root: str) -> bool:
    """Whether ``save_to_disk`` wrote this folder."""
    one = all(os.path.exists(os.path.join(root, name)) for name in _SPLIT)
    return one or os.path.exists(os.path.join(root, _SPLITS))


def parquet_files(root: str) -> list[str]:
    """The Parquet files that lie in a folder itself."""
    return [os.path.join(root, name) for name in os.listdir(root) if name.endswith(".parquet")]
