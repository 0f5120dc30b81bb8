"""Saliency for free: maps of whole images, computed once, from which each view cuts its own.

A cache is one safetensors file: a float16 tensor ``maps`` (images, R, C), standardised per image,
and in the file's metadata a manifest that says whose maps they are.
"""

import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmsalmask.errors import InputError
from mmsalmask.saliency.crops import Crops
from mmsalmask.saliency.foreground import informative

# 2: BoundaryPriorSaliency reads the texture of a cell from fewer rows than in 1.
FORMAT = 2
_KEY = "mmsalmask_saliency"


class CachedSaliency:
    """The place of a localizer, with maps of whole images instead of a network.

    The map of a view is the part of its image's map that lies in the view's crop, averaged over
    the cells of the patch grid and mirrored as the view is. All on the device of the crops:
    nothing waits for it.

    Not an ``nn.Module``, as :class:`~mmsalmask.saliency.Frozen` is none: the maps are in no
    ``state_dict`` and no bucket of DDP. On a CPU they stay in the mapped file, which all processes
    share; to a GPU they are copied at the first call, images · R · C · 2 bytes (50 MB for
    ImageNet-100 at 14×14).

    Args:
        maps: (images, R, C) float, NaN nowhere; usually from :func:`open_cache`.
        manifest: what :func:`write_cache` was given.
        name: what error messages call it.
    """

    def __init__(self, maps: Tensor, manifest: Mapping[str, Any], name: str = "the cache") -> None:
        self.maps = maps
        self.manifest = manifest
        self.name = name

    def __call__(self, crops: Crops, grid: tuple[int, int]) -> Tensor:
        """Saliency (N, gh, gw) float32 of the views that these crops are."""
        device = crops.image.device
        if self.maps.device != device:
            self.maps = self.maps.to(device)
        return cut(self.maps.index_select(0, crops.image), crops.box, crops.flip, grid)

    def check_grid(self, grid: tuple[int, int]) -> None:
        """Refuse a patch grid that is finer than the maps.

        Raises:
            InputError: for such a grid; even the whole image has no value of its own for each of
                its patches.
        """
        rows, columns = self.maps.shape[1:]
        if grid[0] > rows or grid[1] > columns:
            raise InputError(
                f"{self.name} holds maps of {rows}x{columns} cells, too coarse for a grid of "
                f"{grid[0]}x{grid[1]} patches: make it anew with a larger --size"
            )

    def check_dataset(self, fingerprint: Mapping[str, Any]) -> None:
        """Refuse images that are not those of the cache, in number, names, order or size.

        Args:
            fingerprint: of the dataset that the crops' positions count in, see
                :func:`mmsalmask.data.fingerprint`.

        Raises:
            InputError: for another dataset.
        """
        known = self.manifest["dataset"]
        if fingerprint["images"] != known["images"]:
            raise InputError(
                f"{self.name} was made of {known['images']} images, but the training data has "
                f"{fingerprint['images']}: make it anew with tools/cache_saliency.py"
            )
        if fingerprint != known:
            raise InputError(
                f"{self.name} was made of other images, as many but not the same names, order and "
                "sizes of files: make it anew with tools/cache_saliency.py"
            )

    def check_localizer(self, identity: Mapping[str, Any]) -> None:
        """Refuse a localizer whose maps these are not.

        Args:
            identity: JSON values that tell the localizer from every other, weights included.

        Raises:
            InputError: names the first thing that differs.
        """
        if different := what_differs(self.manifest["localizer"], identity):
            raise InputError(
                f"{self.name} was made by another localizer ({different}): make it anew with "
                "tools/cache_saliency.py"
            )

    def check_normalisation(self, normalisation: Mapping[str, Any]) -> None:
        """Refuse a preprocessor that gives the localizer other images than the cache's had.

        Args:
            normalisation: JSON values.

        Raises:
            InputError: for another normalisation.
        """
        known = self.manifest["normalisation"]
        if known != normalisation:
            raise InputError(
                f"{self.name} was made of images normalised by {known}, here it is "
                f"{normalisation}: make it anew with tools/cache_saliency.py"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, maps={tuple(self.maps.shape)})"


def what_differs(known: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    """The first thing in which two localizers differ, empty if none; of weights no digests."""
    for key in dict.fromkeys((*known, *identity)):
        if known.get(key) != identity.get(key):
            values = f"{known.get(key)}, here {identity.get(key)}"
            return f"{key}: {'others' if key == 'weights' else values}"
    return ""


def cut(maps: Tensor, box: Tensor, flip: Tensor, grid: tuple[int, int]) -> Tensor:
    """Means of maps over the cells of a grid that lies on a box of each.

    A map counts as constant inside each of its own cells, so a mean is exact: every cell of the map
    weighs as much as the share of the grid's cell that it covers.

    Args:
        maps: (N, R, C), any floating dtype and range; not NaN, not even outside of the boxes.
        box: (N, 4) x0, y0, x1, y1 as shares of width and height, in [0, 1].
        flip: (N,) bool, mirror the result left to right.
        grid: (gh, gw).

    Returns:
        (N, gh, gw) float32; NaN for a box without area, which has no mean.
    """
    rows, columns = maps.shape[-2:]
    left, top, right, bottom = box.float().unbind(1)
    # A mirrored view is one whose cells are counted from the right edge to the left.
    start, end = torch.where(flip, right, left), torch.where(flip, left, right)
    across = _weights(start, end, grid[1], columns)
    down = _weights(top, bottom, grid[0], rows)
    # Sums of products, not matrix products: those may be rounded to ten bits (TF32, autocast),
    # and what is left of a plain wall after such rounding would pass for an object.
    narrowed = (maps.float()[:, None] * across[:, :, None]).sum(-1)  # (N, gw, R)
    return (narrowed[:, None] * down[:, :, None]).sum(-1)  # (N, gh, gw)


def _weights(start: Tensor, end: Tensor, cells: int, size: int) -> Tensor:
    """(N, cells, size): the share of each of ``cells`` from start to end in each of ``size``."""
    steps = torch.arange(cells + 1, device=start.device) / cells
    edges = torch.lerp(start[:, None], end[:, None], steps) * size
    passed = (edges[..., None] - torch.arange(size, device=start.device)).clamp(0, 1)
    covered = passed.diff(dim=1)
    return covered / covered.sum(-1, keepdim=True)


def standardise(saliency: Tensor) -> Tensor:
    """Maps (N, h, w) as a cache keeps them: float16, mean 0 and standard deviation 1 per image.

    A foreground does not change with a positive factor or a shift of the map, and standardised
    values use float16 well, whatever the localizer's range. A map that is not
    :func:`~mmsalmask.saliency.informative` becomes zero: flat wherever it is cut.
    """
    saliency = saliency.float()
    std, mean = torch.std_mean(saliency, dim=(1, 2), correction=0, keepdim=True)
    told = informative(saliency)[:, None, None]
    return torch.where(told, (saliency - mean) / std, 0).half()


def write_cache(
    path: Path, parts: Iterable[Tensor], cells: tuple[int, int], manifest: Mapping[str, Any]
) -> None:
    """Write a cache from its parts, one after the other, whole or not at all.

    Args:
        path: the file; what was there before is replaced at the end.
        parts: float16 tensors (n, R, C), together a map of each image, in the dataset's order.
        cells: (R, C).
        manifest: JSON values, with ``dataset``, ``localizer`` and ``normalisation``.

    Raises:
        InputError: the parts are not float16 maps of so many cells, one for each image.
        OSError: the file cannot be written.
    """
    images, written = manifest["dataset"]["images"], 0
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(_header((images, *cells), {**manifest, "format": FORMAT}))
            for maps in parts:
                if maps.dtype != torch.float16 or maps.shape[1:] != torch.Size(cells):
                    raise InputError(
                        f"{path} holds float16 maps of {cells[0]}x{cells[1]} cells, "
                        f"not {maps.dtype} of {tuple(maps.shape[1:])}"
                    )
                file.write(maps.contiguous().numpy())
                written += len(maps)
            if written != images:
                raise InputError(f"{path}: {written} maps of {images} images")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _header(shape: tuple[int, ...], manifest: Mapping[str, Any]) -> bytes:
    """What a safetensors file with one float16 tensor of this shape starts with."""
    size = 2 * math.prod(shape)
    content = {
        "__metadata__": {_KEY: json.dumps(manifest)},
        "maps": {"dtype": "F16", "shape": shape, "data_offsets": [0, size]},
    }
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 8)  # the tensor is aligned
    return struct.pack("<Q", len(text)) + text


def read_manifest(path: str | Path) -> dict[str, Any]:
    """What a cache says of itself.

    Raises:
        InputError: there is no such file, or it is no cache that this version reads.
    """
    if not isinstance(path, (str, Path)):
        raise InputError(f"a saliency cache is the path of a file, got {path!r}")
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(
            f"there is no saliency cache {path}: make it with tools/cache_saliency.py, or give the "
            "path of the one you have"
        )
    try:
        with safe_open(path, framework="pt") as file:
            manifest = json.loads((file.metadata() or {}).get(_KEY, "{}"))
    except (SafetensorError, ValueError, OSError) as error:
        raise InputError(f"{path} is no saliency cache, or a damaged one ({error})") from error
    if manifest.get("format") != FORMAT:
        raise InputError(
            f"{path} is no saliency cache of this version (format {manifest.get('format')}, wanted "
            f"{FORMAT}): make it with tools/cache_saliency.py"
        )
    return manifest


def open_cache(path: str | Path) -> CachedSaliency:
    """A cache with its maps left in the file, of which the system reads what is used.

    Raises:
        InputError: as :func:`read_manifest`.
    """
    manifest = read_manifest(path)
    with safe_open(Path(path).expanduser(), framework="pt") as file:
        return CachedSaliency(file.get_tensor("maps"), manifest, f"saliency cache {path}")
