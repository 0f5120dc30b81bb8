"""Whether two listings are of the same images, told cheaply."""

import hashlib
import os
from collections.abc import Sequence

from mmengine.dataset import BaseDataset
from torch.utils.data import Dataset

from mmsalmask.errors import InputError

# A status of every file would take minutes on a network drive.
_SIZES = 1000


def fingerprint(dataset: Dataset) -> dict:
    """Number and digest of a dataset's images, as :func:`fingerprint_of` makes them.

    Raises:
        InputError: for a dataset that wraps others, or of which the images have no paths: an
            image's position then does not say which image it is.
    """
    if isinstance(dataset, BaseDataset):
        dataset.full_init()
    # Images keep their positions in the whole folder where a subset is used.
    if hasattr(dataset, "fingerprint"):
        return dataset.fingerprint
    if not isinstance(dataset, BaseDataset):
        raise InputError(
            f"a saliency cache counts the images of one dataset, and a {type(dataset).__name__} "
            "is none: cache and train on what it wraps"
        )
    paths = [dataset.get_data_info(index).get("img_path") for index in range(len(dataset))]
    if None in paths:
        raise InputError(
            f"the images of {type(dataset).__name__} have no img_path, by which a saliency cache "
            "knows them"
        )
    return fingerprint_of(paths, dataset.data_root or os.path.commonpath(paths))


def fingerprint_of(paths: Sequence[str], root: str) -> dict:
    """What a listing of images can be known by: their number, and a digest.

    The digest is over the paths relative to ``root``, in order, and the sizes of up to 1,000 files
    evenly spread over them. A copy of the folder elsewhere has the same one; a file that is
    missing, new or renamed, or a set of the same names in another resolution, has another.

    Returns:
        ``images`` and ``digest``, JSON values.
    """
    digest = hashlib.sha256()
    prefix = os.path.join(root, "")
    for path in paths:
        digest.update(os.fsencode(path.removeprefix(prefix)) + b"\0")
    for path in paths[:: max(1, len(paths) // _SIZES)][:_SIZES]:
        digest.update(f"{_size(path)} ".encode())
    return {"images": len(paths), "digest": digest.hexdigest()}


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:  # a link that leads nowhere is an image of the folder, a broken one
        return -1
