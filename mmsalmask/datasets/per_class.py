"""A folder per class, split by a seed into so many training images of each class and the others."""

from collections.abc import Sequence

import numpy as np

from mmsalmask.checks import check_integer
from mmsalmask.datasets.image_folder import ImageFolder
from mmsalmask.errors import InputError
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

    def load_data_list(self) -> list[dict]:
        """One dict per image of this side: ``img_path`` and ``gt_label``."""
        images = super().load_data_list()
        labels = np.array([image["gt_label"] for image in images])
        sizes = np.bincount(labels)
        smallest = sizes.argmin()
        if not 1 <= self.train_per_class < sizes[smallest]:
            raise InputError(
                f"{self.train_per_class} training images of each class do not leave images on both "
                f"sides: class {self._metainfo['classes'][smallest]!r} of {self.data_root} has "
                f"{sizes[smallest]}"
            )
        train, test = split_per_class(labels, self.train_per_class, self.seed)
        return [images[i] for i in (train if self.split == "train" else test)]
