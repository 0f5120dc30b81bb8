"""Whether two listings are of the same images, told cheaply."""

import hashlib
import os
from collections.abc import Iterable, Sequence

from mmengine.dataset import BaseDataset
from torch.utils.data import Dataset

from mmsalmask.data.storage import Listing
from mmsalmask.data.storage.folder import file_size
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
        raise not_plain(type(dataset).__name__)
    paths = [dataset.get_data_info(index).get("img_path") for index in range(len(dataset))]
    if None in paths:
        raise InputError(
            f"the images of {type(dataset).__name__} have no img_path, by which a saliency cache "
            "knows them"
        )
    return fingerprint_of(paths, dataset.data_root or os.path.commonpath(paths))


def not_plain(kind: str) -> InputError:
    """What is said of a dataset that wraps others."""
    return InputError(
        f"a saliency cache needs a plain dataset, not a {kind}: cache and train on the dataset "
        "inside it"
    )


def fingerprint_of(paths: Sequence[str], root: str) -> dict:
    """What a listing of images can be known by: their number, and a digest.

    The digest is over the paths relative to ``root``, in order, and the sizes of up to 1,000 files
    evenly spread over them. A copy of the folder elsewhere has the same one; a file that is
    missing, new or renamed, or a set of the same names in another resolution, has another.

    Returns:
        ``images`` and ``digest``, JSON values.
    """
    prefix = os.path.join(root, "")
    names = (os.fsencode(path.removeprefix(prefix)) + b"\0" for path in paths)
    spread = paths[:: max(1, len(paths) // _SIZES)][:_SIZES]
    return _digest(len(paths), names, map(file_size, spread))


def fingerprint_of_listing(listing: Listing) -> dict:
    """As :func:`fingerprint_of`; that of a folder is also that of shards packed from it."""
    return _digest(len(listing), listing.encoded_names(), listing.sizes(_SIZES))


def _digest(images: int, names: Iterable[bytes], sizes: Iterable[int]) -> dict:
    digest = hashlib.sha256()
    for part in names:
        digest.update(part)
    for size in sizes:
        digest.update(f"{size} ".encode())
    return {"images": images, "digest": digest.hexdigest()}
