"""Where the photo sets for tests and measurements lie: plain tar files, found, never fetched."""

import os
import tarfile
from pathlib import Path

from mmsalmask.errors import InputError

ROOT = Path(__file__).resolve().parent.parent


def find_photos(name: str) -> Path | None:
    """Path of ``<name>.tar``, or ``None`` where it is absent.

    Looks in the folder that ``MMSALMASK_PHOTOS`` names, else in ``data/`` of this checkout, else in
    a ``data/`` folder one or two levels below the checkout's parent.
    """
    if folder := os.environ.get("MMSALMASK_PHOTOS"):
        candidates = [Path(folder)]
    else:
        parent = ROOT.parent
        candidates = [ROOT / "data", *parent.glob("data"), *parent.glob("*/data")]
    for candidate in candidates:
        if (archive := candidate / f"{name}.tar").is_file():
            return archive
    return None


def unpack(name: str, folder: str | Path) -> Path:
    """The photos of ``<name>.tar``, unpacked into a folder: ``<folder>/<name>``.

    Raises:
        InputError: the set is not here.
    """
    if (archive := find_photos(name)) is None:
        raise InputError(
            f"{name}.tar is not here: set MMSALMASK_PHOTOS to the folder that it lies in"
        )
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return Path(folder) / name
