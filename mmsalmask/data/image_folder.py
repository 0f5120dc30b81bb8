"""All images of a folder, of tar shards or of a Hugging Face dataset."""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from torch.utils.data import Dataset

from mmsalmask.checks import check_flag, check_part, is_integer
from mmsalmask.data.fingerprint import fingerprint_of, fingerprint_of_listing
from mmsalmask.data.loading import EXTENSIONS
from mmsalmask.data.nesting import every_dataset
from mmsalmask.data.storage import (
    Listing,
    class_names,
    is_storage_file,
    list_all,
    list_classes,
    open_storage,
)
from mmsalmask.data.tolerance import TolerantDataset
from mmsalmask.errors import InputError, some_names
from mmsalmask.registry import DATASETS

_HOW_TO_SET = (
    "set data_root, for example with --cfg-options data_root=/path/to/images, or name another "
    "folder"
)


@DATASETS.register_module()
class ImageFolder(TolerantDataset):
    """Every image below a folder, sorted by path; or every image of another storage, in its order.

    ``data_root`` may be a folder of image files, a folder of tar shards in WebDataset's layout, one
    tar file, or a Hugging Face dataset, see :func:`mmsalmask.data.storage.open_storage`. Order,
    labels, marks and replacements are the same in all of them.

    Subfolders are searched to any depth, symbolic links followed, each folder once (so a loop of
    links ends). Names that begin with a dot are left out: they are thumbnails and the second files
    of foreign file systems. A link that leads nowhere is listed and then found broken.

    In training, a broken image is marked and replaced by another, in ``test_mode`` it is an error,
    see :class:`~mmsalmask.data.tolerance.TolerantDataset`.

    ``sample_idx`` of an image is its position among all of the folder, whatever ``indices`` or
    :meth:`get_subset` keep, and in place of a broken image its replacement's.

    Args:
        data_root: the folder or tar file.
        pipeline: transforms, as configs or callables; the first is usually
            ``dict(type='mmsalmask.LoadImage')``.
        with_label: take the subfolder below ``data_root`` that an image lies in as its class.
            ``metainfo['classes']`` are the subfolders' names, sorted, ``gt_label`` indexes them. In
            shards the first folder of a member's name, or what the sample's ``.cls`` says; in a
            Hugging Face dataset its column of classes.
        extensions: the files that count as images, whatever the case; ``auto`` for those that the
            first transform of the pipeline reads.
        indices: use the first so many images only, or these.
        test_mode: raise on a broken image instead of replacing it.
        lazy_init: search the folder at the first use instead of now.

    Attributes:
        found: how many images there are, of which ``indices`` or a split may use a part.
        skipped: a count of the files with other extensions, by extension.

    Raises:
        InputError: the folder is missing, not readable, empty or without images, or with_label
            finds no classes, empty ones, or images outside them; there are no such ``indices``.
    """

    def __init__(
        self,
        data_root: str,
        pipeline: Sequence = (),
        with_label: bool = False,
        extensions: Sequence[str] | Literal["auto"] = "auto",
        indices: int | Sequence[int] | None = None,
        test_mode: bool = False,
        lazy_init: bool = False,
    ) -> None:
        check_root(data_root)
        _check_extensions(extensions)
        _check_indices(indices)
        for name, value in (("test_mode", test_mode), ("lazy_init", lazy_init)):
            check_flag(name, value)
        if isinstance(pipeline, str) or not isinstance(pipeline, Sequence):
            raise InputError(f"pipeline must be a list of transforms, got {pipeline!r}")
        for place, transform in enumerate(pipeline):
            if not callable(transform):
                check_part(f"transform {place} of the pipeline", transform)
        self.with_label = check_flag("with_label", with_label)
        self._extensions = None if extensions == "auto" else [e.lower() for e in extensions]
        self.found, self.skipped = 0, Counter()
        super().__init__(
            ann_file="",
            data_root=os.path.expanduser(data_root or ""),
            pipeline=pipeline,
            indices=indices,
            test_mode=test_mode,
            lazy_init=lazy_init,
        )

    @property
    def extensions(self) -> tuple[str, ...]:
        """Of the files that count as images, in small letters."""
        if self._extensions is not None:
            return tuple(self._extensions)
        return getattr(next(iter(self.pipeline.transforms), None), "extensions", EXTENSIONS)

    def load_data_list(self) -> Sequence[dict]:
        """One dict per image: ``img_path`` and, with labels, ``gt_label``."""
        check_folder(self.data_root)
        if self.with_label:
            return self.load_labelled()
        storage = open_storage(self.data_root, self.extensions)
        if not len(storage.names):
            raise InputError(self._no_images(storage.skipped))
        self.skipped = storage.skipped
        return list_all(storage)

    def load_labelled(self, classes: Sequence[str] | None = None) -> Listing:
        """The images of these classes, by default of all that ``data_root`` has."""
        known = class_names(self.data_root, self.extensions) if classes is None else classes
        storage = open_storage(self.data_root, self.extensions, known)
        if classes is None and (loose := storage.unlabelled()):
            raise InputError(
                f"{some_names(loose)} lie in {self.data_root} itself and have no class: "
                f"{_how_to_label(self.data_root)}"
            )
        listing = list_classes(storage, known)
        if not len(listing):
            raise InputError(
                f"{self.data_root} has no class subfolders with images: "
                f"{_how_to_label(self.data_root)}"
            )
        self._metainfo["classes"] = tuple(known)
        self.found, self.skipped = len(listing), storage.skipped
        return listing

    def _no_images(self, others: Counter) -> str:
        if not others:
            return f"image folder {self.data_root} is empty: {_HOW_TO_SET}"
        return (
            f"image folder {self.data_root} has no images: looked for "
            f"{' '.join(self.extensions)} and found {_kinds(others)} instead"
        )

    def tell(self, logger: logging.Logger) -> None:
        """Log how many images there are, how many are used and, as a warning, what is skipped."""
        self.full_init()
        told = f"{self.data_root}: found {self.found} images, uses {len(self)}"
        if self.skipped:
            logger.warning(f"{told}, skips {_kinds(self.skipped)}: not a supported image format")
        else:
            logger.info(told)

    def filter_data(self) -> Sequence[dict]:
        """Number the images, of which ``indices`` may keep a part; nothing is filtered."""
        count, indices = len(self.data_list), self._indices
        self.found = max(self.found, count)  # more where the listing is one side of a split
        if indices is not None:
            last = indices - 1 if isinstance(indices, int) else max(indices)
            if last >= count:
                raise InputError(
                    f"indices ask for image {last} of {self.data_root}, which has {count}, counted "
                    "from 0"
                )
        # A listing is small already; a list of dicts, of a dataset derived from this, is not.
        self.serialize_data = not isinstance(self.data_list, Listing)
        if self.serialize_data:
            paths = [info["img_path"] for info in self.data_list]
            self._fingerprint = fingerprint_of(paths, self.data_root)
            return [{**info, "position": i} for i, info in enumerate(self.data_list)]
        self._whole, self._fingerprint = self.data_list.renumbered(), None
        return self._whole

    @property
    def fingerprint(self) -> dict:
        """What the images are known by, those that ``indices`` leave out included."""
        self.full_init()
        if self._fingerprint is None:
            self._fingerprint = fingerprint_of_listing(self._whole)
        return self._fingerprint

    def _get_unserialized_subset(self, indices: int | Sequence[int]) -> Listing:
        return self.data_list.take(indices)

    def get_data_info(self, idx: int) -> dict:
        """What is known of an image before its pipeline sees it."""
        info = super().get_data_info(idx)
        # The base class counts among the images that are left.
        info["sample_idx"] = info.pop("position")
        return info

    def get_gt_labels(self) -> np.ndarray:
        """The classes of all images, (N,) integers."""
        self.full_init()
        own = not self.serialize_data and self.data_list.labels is not None
        return self.data_list.labels if own else super().get_gt_labels()

    def extra_repr(self) -> list[str]:
        """The lines of the dataset's printed form that are its own."""
        return [f"Image folder: \t{self.data_root}"]


def image_folders(dataset: Dataset) -> Iterator[ImageFolder]:
    """Those that a dataset consists of: itself, or what wrappers hold as dataset or datasets."""
    return (part for part in every_dataset(dataset) if isinstance(part, ImageFolder))


def check_root(data_root: Any) -> str | os.PathLike | None:
    """The path, if it is one, or none at all."""
    if not isinstance(data_root, str | os.PathLike | None):
        raise InputError(f"data_root must be the path of a folder, got {data_root!r}")
    return data_root


def _check_extensions(extensions: Any) -> None:
    if extensions == "auto":
        return
    several = isinstance(extensions, Sequence) and not isinstance(extensions, str)
    if not several or not all(isinstance(e, str) and e.startswith(".") for e in extensions):
        raise InputError(f"extensions must be a list such as ['.jpg', '.png'], got {extensions!r}")


def _check_indices(indices: Any) -> None:
    several = isinstance(indices, Sequence) and not isinstance(indices, str) and len(indices)
    listed = indices if several else [indices]
    least = 0 if several else 1
    if indices is not None and not all(is_integer(i, least) for i in listed):
        raise InputError(
            "indices must be a number of images, at least 1, or a list of positions from 0 on, "
            f"got {indices!r}"
        )


def check_folder(folder: str, advice: str = _HOW_TO_SET) -> None:
    """Refuse what is not given, missing, or a file without images in it, with advice.

    Raises:
        InputError: for such a folder.
    """
    if not folder:
        raise InputError(f"no image folder is given: {advice}")
    if not os.path.exists(folder):
        raise InputError(f"image folder {folder} does not exist: {advice}")
    if not os.path.isdir(folder) and not is_storage_file(folder):
        raise InputError(f"{folder} is a file, not a folder of images or a tar of them: {advice}")


def _how_to_label(folder: str) -> str:
    path = os.path.join(folder, "<class>", "<image>")
    return f"labels need every image in a subfolder named after its class, {path}"


def _kinds(files: Counter) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in files.most_common(5))
