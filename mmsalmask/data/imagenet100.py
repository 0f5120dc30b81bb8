"""ImageNet-100, as a selection from an ordinary ImageNet folder."""

import os
from collections.abc import Sequence
from pathlib import Path

from mmsalmask.data.image_folder import ImageFolder, check_folder, check_root
from mmsalmask.data.storage import Listing, class_names
from mmsalmask.errors import InputError, some_names
from mmsalmask.registry import DATASETS

_IDS = Path(__file__).with_name("imagenet100_classes.txt")


@DATASETS.register_module()
class ImageNet100(ImageFolder):
    """The 100 classes of ImageNet on which the paper and ADIOS compare; nothing is copied.

    The WordNet ids are those of Chin et al. (WACV 2024), who took over the selection of ADIOS
    (Shi et al., ICML 2022). Images are ``data_root/<split>/<wnid>/*.JPEG``; ``gt_label`` is the
    place of the id among the sorted ids, ``metainfo['classes']`` the ids.

    Args:
        data_root: the folder that holds ``train`` and ``val``.
        split: ``"train"`` or ``"val"``.
        pipeline: transforms, as configs or callables.
        with_label: hand on ``gt_label``; pretraining ignores it.
        indices: use the first so many images only, or these.
        test_mode: raise on a broken image instead of replacing it. Default: for ``val``.
        lazy_init: search the folders at the first use instead of now.

    Raises:
        InputError: the split's folder or folders of classes are missing or hold no images.
    """

    METAINFO = {"classes": tuple(sorted(_IDS.read_text().split()))}

    def __init__(
        self,
        data_root: str,
        split: str = "train",
        pipeline: Sequence = (),
        with_label: bool = True,
        indices: int | Sequence[int] | None = None,
        test_mode: bool | None = None,
        lazy_init: bool = False,
    ) -> None:
        if split not in ("train", "val"):
            raise InputError(f"split must be 'train' or 'val', got {split!r}")
        super().__init__(
            data_root=check_root(data_root) and os.path.join(data_root, split),
            pipeline=pipeline,
            with_label=with_label,
            indices=indices,
            test_mode=split == "val" if test_mode is None else test_mode,
            lazy_init=lazy_init,
        )

    def load_data_list(self) -> Listing:
        """One dict per image of the 100 classes: ``img_path`` and, with labels, ``gt_label``."""
        check_folder(self.data_root)
        ids = self.METAINFO["classes"]
        there = set(class_names(self.data_root, self.extensions))
        missing = [name for name in ids if name not in there]
        if missing:
            raise InputError(
                f"{len(missing)} of the {len(ids)} class folders are missing in {self.data_root} "
                f"({some_names(missing)}): data_root must be ImageNet's folder, with the images of "
                "train and val sorted into one subfolder per WordNet id"
            )
        images = self.load_labelled(ids)
        return images if self.with_label else images.without_labels()
