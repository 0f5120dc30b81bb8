"""Any folder of images, with a small tolerance for broken ones."""

import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmpretrain.datasets import BaseDataset
from torch.utils.data import Dataset

from mmsalmask.checks import check_flag, check_part, is_integer
from mmsalmask.data.fingerprint import fingerprint_of
from mmsalmask.data.loading import EXTENSIONS, BrokenImage
from mmsalmask.errors import InputError, some_names
from mmsalmask.registry import DATASETS

_HOW_TO_SET = "set data_root, for example with --cfg-options data_root=/path/to/images"


@DATASETS.register_module()
class ImageFolder(BaseDataset):
    """Every image below a folder, sorted by path.

    Subfolders are searched to any depth, symbolic links followed, each folder once (so a loop of
    links ends). Names that begin with a dot are left out: they are thumbnails and the second files
    of foreign file systems. A link that leads nowhere is listed and then found broken.

    In training, an image for which the pipeline raises :class:`BrokenImage` is marked and replaced
    by another, which depends on its index alone: a run stays reproducible, and images that follow
    a damaged stretch of files are not drawn more often than others. In ``test_mode`` it is an
    error, since a replacement would change the result.

    The marks lie in shared memory, one byte per image: what a worker finds, the main process and
    the other workers see, whether they were forked or spawned. A marked image is not tried again.

    ``sample_idx`` of an image is its position among all of the folder, whatever ``indices`` or
    :meth:`get_subset` keep, and in place of a broken image its replacement's.

    Args:
        data_root: the folder.
        pipeline: transforms, as configs or callables; the first is usually
            ``dict(type='mmsalmask.LoadImage')``.
        with_label: take the subfolder below ``data_root`` that an image lies in as its class.
            ``metainfo['classes']`` are the subfolders' names, sorted, ``gt_label`` indexes them.
        extensions: the files that count as images, whatever the case.
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
        extensions: Sequence[str] = EXTENSIONS,
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
        self.extensions = tuple(extension.lower() for extension in extensions)
        self.found, self.skipped = 0, Counter()
        super().__init__(
            ann_file="",
            data_root=os.path.expanduser(data_root or ""),
            pipeline=pipeline,
            indices=indices,
            test_mode=test_mode,
            lazy_init=lazy_init,
        )

    def load_data_list(self) -> list[dict]:
        """One dict per image: ``img_path`` and, with labels, ``gt_label``."""
        check_folder(self.data_root)
        if self.with_label:
            self._refuse_loose_images()
            return self.load_labelled(_subfolders(self.data_root))
        paths, self.skipped = _find_images([self.data_root], self.extensions)
        if not paths:
            raise InputError(self._no_images(self.skipped))
        return [{"img_path": path} for path in paths]

    def load_labelled(self, classes: Sequence[str]) -> list[dict]:
        """The images of these subfolders of ``data_root``, which become the classes."""
        found = [
            _find_images([os.path.join(self.data_root, name)], self.extensions) for name in classes
        ]
        if not any(paths for paths, _ in found):
            raise InputError(
                f"{self.data_root} has no class subfolders with images: "
                f"{_how_to_label(self.data_root)}"
            )
        empty = [name for name, (paths, _) in zip(classes, found, strict=True) if not paths]
        if empty:
            raise InputError(
                f"{some_names(empty)} below {self.data_root} hold no images though each subfolder "
                "is a class: remove them or add images"
            )
        self._metainfo["classes"] = tuple(classes)
        self.found = sum(len(paths) for paths, _ in found)
        self.skipped = sum((others for _, others in found), Counter())
        return [
            {"img_path": path, "gt_label": label}
            for label, (paths, _) in enumerate(found)
            for path in paths
        ]

    def _refuse_loose_images(self) -> None:
        loose = [
            entry.name
            for entry in _list_folder(self.data_root)
            if os.path.splitext(entry.name)[1].lower() in self.extensions and not _is_folder(entry)
        ]
        if loose:
            raise InputError(
                f"{some_names(sorted(loose))} lie in {self.data_root} itself and have no class: "
                f"{_how_to_label(self.data_root)}"
            )

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
            logger.warning(f"{told}, skips {_kinds(self.skipped)}: no kind of image that is read")
        else:
            logger.info(told)

    def full_init(self) -> None:
        """Search the folder, once."""
        if self._fully_initialized:
            return
        super().full_init()
        self._clear_marks()

    def filter_data(self) -> list[dict]:
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
        self.fingerprint = fingerprint_of([i["img_path"] for i in self.data_list], self.data_root)
        return [{**info, "position": i} for i, info in enumerate(self.data_list)]

    def get_data_info(self, idx: int) -> dict:
        """What is known of an image before its pipeline sees it."""
        info = super().get_data_info(idx)
        # The base class counts among the images that are left.
        info["sample_idx"] = info.pop("position")
        return info

    def get_subset_(self, indices: int | Sequence[int]) -> None:
        """Keep these images only; none of them is marked."""
        super().get_subset_(indices)
        self._clear_marks()

    def get_subset(self, indices: int | Sequence[int]) -> "ImageFolder":
        """A dataset of these images only, with marks of its own."""
        subset = super().get_subset(indices)
        subset._clear_marks()
        return subset

    def _clear_marks(self) -> None:
        self.broken = torch.zeros(len(self), dtype=torch.uint8).share_memory_()

    def __setstate__(self, state: dict) -> None:
        # A copy (mmengine's Runner makes one of a dataset it is given) leaves shared memory; a
        # spawned worker receives marks that are shared already and stay the same.
        self.__dict__.update(state)
        if self._fully_initialized:
            self.broken.share_memory_()

    def __getitem__(self, index: int) -> dict:
        """What the pipeline makes of image ``index`` or, if it is broken, of its replacement.

        Raises:
            InputError: the image is broken and this is ``test_mode``; or as many replacements as
                ``max_refetch`` were broken too.
        """
        self.full_init()
        index = range(len(self))[index]
        error = None
        for candidate in self._candidates(index):
            if self.broken[candidate] and not self.test_mode:
                continue
            try:
                item = self.prepare_data(candidate)
            except BrokenImage as broken:
                error = broken
                self.mark_broken(candidate, broken)
                continue
            # None is the family's way to ask for another image; this one is not broken.
            if item is not None:
                return item
        raise self._none_readable(index, error)

    def mark_broken(self, index: int, broken: BrokenImage) -> None:
        """Note that an image cannot be read.

        Raises:
            InputError: this is ``test_mode``.
        """
        self.broken[index] = 1
        if self.test_mode:
            raise InputError(
                f"{broken.path} cannot be read ({broken.reason}), and leaving it out would "
                "change the result: repair it or remove it"
            ) from broken

    def readable(self, index: int) -> int:
        """The index or, if its image is marked as broken, that of the image that replaces it.

        Raises:
            InputError: as many replacements as ``max_refetch`` are marked, too.
        """
        for candidate in self._candidates(index):
            if not self.broken[candidate]:
                return candidate
        raise self._none_readable(index)

    def _none_readable(self, index: int, error: BrokenImage | None = None) -> InputError:
        return InputError(
            f"image {index} below {self.data_root} and all tried instead of it cannot be read: "
            f"repair the folder ({error or 'all were found broken before'})"
        )

    def _candidates(self, index: int) -> Iterator[int]:
        """The index, then others spread over the whole dataset, each once."""
        size = len(self)
        # Neighbours of a broken file are often broken as well. The golden section spreads the
        # steps evenly, and a stride prime to the size meets every image before it comes back.
        stride = max(1, round(size * (math.sqrt(5) - 1) / 2))
        while math.gcd(stride, size) > 1:
            stride += 1
        for attempt in range(min(size, self.max_refetch + 1)):
            yield (index + attempt * stride) % size

    def broken_files(self) -> list[str]:
        """The paths of the images found broken so far by any process of this machine's loader."""
        self.full_init()
        return [self.get_data_info(i)["img_path"] for i in self.broken.nonzero().flatten().tolist()]

    def extra_repr(self) -> list[str]:
        """The lines of the dataset's printed form that are its own."""
        return [f"Image folder: \t{self.data_root}"]


def image_folders(dataset: Dataset) -> Iterator[ImageFolder]:
    """Those that a dataset consists of: itself, or what wrappers hold as dataset or datasets."""
    if isinstance(dataset, ImageFolder):
        yield dataset
    inner = [dataset.dataset] if hasattr(dataset, "dataset") else getattr(dataset, "datasets", [])
    for part in inner:
        yield from image_folders(part)


def check_root(data_root: Any) -> str | os.PathLike | None:
    """The path, if it is one, or none at all."""
    if not isinstance(data_root, str | os.PathLike | None):
        raise InputError(f"data_root must be the path of a folder, got {data_root!r}")
    return data_root


def _check_extensions(extensions: Any) -> None:
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
    """Refuse a folder that is not given, missing, or a file, with advice where it is set."""
    if not folder:
        raise InputError(f"no image folder is given: {advice}")
    if not os.path.exists(folder):
        raise InputError(f"image folder {folder} does not exist: {advice}")
    if not os.path.isdir(folder):
        raise InputError(f"{folder} is a file, not a folder of images: {advice}")


def _how_to_label(folder: str) -> str:
    path = os.path.join(folder, "<class>", "<image>")
    return f"labels need every image in a subfolder named after its class, {path}"


def _kinds(files: Counter) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in files.most_common(5))


def _list_folder(folder: str) -> list[os.DirEntry]:
    """What lies in a folder, without hidden names, in no particular order."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(
            f"folder {folder} cannot be read ({error.strerror}): give it the right permissions or "
            "remove it"
        ) from error


def _is_folder(entry: os.DirEntry) -> bool:
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


def _subfolders(folder: str) -> list[str]:
    return sorted(entry.name for entry in _list_folder(folder) if _is_folder(entry))


def _find_images(roots: list[str], extensions: tuple[str, ...]) -> tuple[list[str], Counter]:
    """All images below the folders, sorted, and a count of the other files by extension."""
    wanted = frozenset(extensions)
    images, others, seen = [], Counter(), set()
    folders = list(roots)
    while folders:
        folder = folders.pop()
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        inner = []
        for entry in _list_folder(folder):
            extension = os.path.splitext(entry.name)[1].lower()
            if _is_folder(entry):
                inner.append(entry.path)
            elif extension in wanted and _is_file(entry):
                images.append(entry.path)
            else:
                others[extension or "without extension"] += 1
        # Of two links to one folder the same one must win on every file system.
        folders.extend(sorted(inner, reverse=True))
    images.sort()
    return images, others
