"""A folder per class, split by a seed into so many training images of each class and the others."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmsalmask.checks import check_integer
from mmsalmask.data.image_folder import ImageFolder
from mmsalmask.data.storage import Folder, Listing
from mmsalmask.errors import InputError
from mmsalmask.provenance import write_result
from mmsalmask.registry import DATASETS


def split_per_class(
    labels: Sequence[int] | np.ndarray, count: int | Sequence[int] | np.ndarray, seed: int
) -> tuple[list[int], list[int]]:
    """Draw ``count`` entries of each class without replacement.

    Args:
        labels: The classes (N,), integer, from 0.
        count: How many of each class, the same for all or one number per class; of a class that
            has fewer, all are drawn.
        seed: Of NumPy's RandomState, whose streams are frozen: a split stays the same for good.

    Returns:
        The indices drawn and all others, each in ascending order.
    """
    labels = np.asarray(labels, dtype=np.int64)
    wanted = np.broadcast_to(count, labels.max(initial=0) + 1)
    order = np.random.RandomState(seed).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    sorted_labels = labels[by_class]
    place = np.arange(len(labels)) - np.searchsorted(sorted_labels, sorted_labels)
    drawn = place < wanted[sorted_labels]
    return np.sort(by_class[drawn]).tolist(), np.sort(by_class[~drawn]).tolist()


def split_share(
    labels: Sequence[int] | np.ndarray, held_out: float, seed: int
) -> tuple[list[int], list[int]]:
    """Hold a share of each class out, of which at least one entry stays.

    Args:
        labels: The classes (N,), integer, from 0.
        held_out: In (0, 1).
        seed: As in :func:`split_per_class`.

    Returns:
        The indices that stay and those held out, each in ascending order.
    """
    sizes = np.bincount(np.asarray(labels))
    kept = np.maximum(1, sizes - np.round(held_out * sizes).astype(int))
    return split_per_class(labels, kept, seed)


def link_split(
    data: Path,
    out: Path,
    sides: tuple[str, str],
    split: Callable[[list[int]], tuple[list[int], list[int]]],
    identity: Mapping[str, Any],
) -> tuple[Path, Path]:
    """Two folders ``<class>/<image>`` of links to the images of one, made once.

    Several processes may ask for them at a time.

    Args:
        data: the folder, ``<class>/<image>``.
        out: where they go.
        sides: their names.
        split: from the labels of all images to the indices of each side.
        identity: what the split depends on besides the folder; JSON values.

    Raises:
        InputError: ``out`` holds a split of another kind, or one side would have no images.
    """
    finished, wanted = out / "split.json", {"data": str(data.resolve()), **identity}
    if not finished.exists():
        parts = _split_paths(data, split)
        made = out.with_name(f".{out.name}.part.{os.getpid()}")
        try:
            for side, paths in zip(sides, parts, strict=True):
                _link(data, paths, made / side)
            write_result(made / finished.name, wanted)
            _put(made, out, finished)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    if json.loads(finished.read_text()) != wanted:
        raise InputError(f"{out} holds a split of other photos: choose another --out")
    return out / sides[0], out / sides[1]


def _split_paths(
    data: Path, split: Callable[[list[int]], tuple[list[int], list[int]]]
) -> list[list[Path]]:
    """The images of each side."""
    folder = ImageFolder(str(data), with_label=True)
    if not isinstance(folder.data_list.storage, Folder):
        raise InputError(f"{data} must be a folder of image files, to which links can be made")
    infos = [folder.get_data_info(index) for index in range(len(folder))]
    parts = split([info["gt_label"] for info in infos])
    if not all(parts):
        raise InputError(
            f"the {len(infos)} images of {data} are too few: no class has one for either side"
        )
    return [[Path(infos[index]["img_path"]) for index in part] for part in parts]


def _link(data: Path, photos: Sequence[Path], side: Path) -> None:
    for photo in photos:
        link = side / photo.relative_to(data)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(photo.resolve())


def _put(made: Path, out: Path, finished: Path) -> None:
    """Give a split its name, unless another process was faster."""
    try:
        made.rename(out)
    except OSError:
        if finished.exists():
            return
        try:
            for left in sorted(out.rglob("*"), reverse=True):  # by a split that was not finished
                left.unlink() if left.is_symlink() else left.rmdir()
            made.rename(out)
        except OSError as error:
            raise InputError(f"{out} holds other files: choose another --out") from error


@DATASETS.register_module()
class PerClassSplit(ImageFolder):
    """One side of a seeded split of a folder with a subfolder per class and no split of its own.

    Caltech-101, for example: with its 102 folders (the background's included) and 30 images of each
    to train, 3060 images are on the one side and 6084 on the other.

    Args:
        data_root: the folder, ``<class>/<image>``.
        split: ``"train"``, so many images of each class, or ``"test"``, all others.
        train_per_class: how many.
        seed: draws them. Both sides must have the same.
        pipeline: transforms, as configs or callables.
        indices: use the first so many images of this side only, or these.
        test_mode: raise on a broken image instead of replacing it. Default: for ``test``.
        lazy_init: search the folder at the first use instead of now.

    Raises:
        InputError: the split has another name, the folder is not as described, or a class has too
            few images to leave one on either side.
    """

    def __init__(
        self,
        data_root: str,
        split: str = "train",
        train_per_class: int = 30,
        seed: int = 0,
        pipeline: Sequence = (),
        indices: int | Sequence[int] | None = None,
        test_mode: bool | None = None,
        lazy_init: bool = False,
    ) -> None:
        if split not in ("train", "test"):
            raise InputError(f"split must be 'train' or 'test', got {split!r}")
        self.split = split
        self.train_per_class = check_integer("train_per_class", train_per_class, 0)
        self.seed = check_integer("seed", seed, 0)
        if seed >= 2**32:
            raise InputError(f"seed must be below 2**32, got {seed}")
        super().__init__(
            data_root=data_root,
            pipeline=pipeline,
            with_label=True,
            indices=indices,
            test_mode=split == "test" if test_mode is None else test_mode,
            lazy_init=lazy_init,
        )

    def load_data_list(self) -> Listing:
        """One dict per image of this side: ``img_path`` and ``gt_label``."""
        images = super().load_data_list()
        sizes = np.bincount(images.labels)
        smallest = sizes.argmin()
        if not 1 <= self.train_per_class < sizes[smallest]:
            raise InputError(
                f"{self.train_per_class} training images of each class do not leave images on both "
                f"sides: class {self._metainfo['classes'][smallest]!r} of {self.data_root} has "
                f"{sizes[smallest]}"
            )
        train, test = split_per_class(images.labels, self.train_per_class, self.seed)
        return images.take(train if self.split == "train" else test)
