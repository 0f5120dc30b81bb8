"""The same images in every storage that ``data_root`` may name."""

import os
from pathlib import Path

import pytest

from mmsalmask.data import pack
from mmsalmask.data.loading import EXTENSIONS
from mmsalmask.data.storage import class_names, open_storage

KINDS = ("folder", "shards", "arrow")


def stored(folder: Path, kind: str) -> str:
    """A data root with the images of a folder; shards are small, so that there are several."""
    out = folder.with_name(f"{folder.name}-{kind}")
    if out.exists():
        return str(out)
    if kind == "folder":
        return str(folder)
    if kind == "shards":
        pack(folder, out, shard_bytes=300)
        return str(out)
    datasets = pytest.importorskip("datasets")
    classes = class_names(str(folder), EXTENSIONS)
    images = open_storage(str(folder), EXTENSIONS)
    names = [name for name in images.names if os.path.exists(images.root + "/" + name)]
    cells = [{"bytes": (folder / name).read_bytes(), "path": name} for name in names]
    columns = {"picture": cells, "text": names}
    features = {"picture": datasets.Image(), "text": datasets.Value("string")}
    if classes:
        columns["kind"] = [name.split("/")[0] for name in names]
        features["kind"] = datasets.ClassLabel(names=classes)
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    table.save_to_disk(str(out))
    return str(out)
