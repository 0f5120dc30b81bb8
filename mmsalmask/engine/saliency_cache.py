"""Saliency caches as files, and whether one fits the images and the localizer of a config.

A cache is one safetensors file: a float16 tensor ``maps`` (images, R, C), standardised per image,
and in the file's metadata a manifest that says whose maps they are.
"""

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mmsalmask.checks import check_part
from mmsalmask.errors import InputError
from mmsalmask.registry import MODELS
from mmsalmask.saliency import CachedSaliency

# 2: BoundaryPriorSaliency reads the texture of a cell from fewer rows than in 1.
FORMAT = 2
_KEY = "mmsalmask_saliency"


class _SavedSaliency(CachedSaliency):
    """Maps of a file, which know whose they are.

    Args:
        maps, name: as in :class:`~mmsalmask.saliency.CachedSaliency`.
        manifest: what :func:`write_cache` was given.
    """

    def __init__(self, maps: Tensor, manifest: Mapping[str, Any], name: str) -> None:
        super().__init__(maps, name)
        self.manifest = manifest

    def check_source(self, **facts: Any) -> None:
        """Refuse images or a localizer that are not those of the maps.

        Args:
            dataset: of the dataset that the crops' positions count in, what
                :func:`mmsalmask.data.fingerprint` says of number, names, order and sizes.
            localizer: what :func:`localizer_identity` says.
            normalisation: of the images that the localizer sees.

        Raises:
            InputError: names the first thing that differs.
        """
        for fact, here in facts.items():
            known = self.manifest[fact]
            if known != here:
                raise InputError(
                    f"{self.name} was made {_made(fact, known, here)}: make it anew with "
                    "`mmsalmask cache`"
                )


def _made(fact: str, known: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Of or by what else a cache was made, where one of its facts differs from what is here."""
    if fact == "localizer":
        return f"by another localizer ({what_differs(known, here)})"
    if fact == "normalisation":
        return f"of images normalised by {known}, here it is {here}"
    if known["images"] != here["images"]:
        return f"of {known['images']} images, but the training data has {here['images']}"
    return "of other images, as many but not the same names, order and sizes of files"


@MODELS.register_module(name="CachedSaliency")
def cached_saliency(cache: str, localizer: dict[str, Any] | None = None) -> CachedSaliency:
    """The maps that ``tools/cache_saliency.py`` made, in the place of the localizer that made them.

    Args:
        cache: its file.
        localizer: config of the localizer whose maps they have to be. It is built, for its weights
            are compared, and let go. ``None`` to take whatever maps are there.

    Raises:
        InputError: there is no such cache, or it was made by another localizer.
    """
    saliency = open_cache(cache)
    if localizer is not None:
        built = MODELS.build(check_part("localizer", localizer))
        saliency.check_source(localizer=localizer_identity(localizer, built))
    return saliency


def localizer_identity(config: Mapping[str, Any], localizer: nn.Module) -> dict[str, Any]:
    """What tells a localizer from every other: its config, and a digest of its weights.

    The checkpoint's name is left out: the same weights may lie elsewhere.

    Returns:
        JSON values.
    """
    digest = hashlib.sha256()
    for name, value in sorted(localizer.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    options = {key: _plain(value) for key, value in config.items() if key != "checkpoint"}
    return {**options, "weights": digest.hexdigest()}


def _plain(value: Any) -> Any:
    """Dicts, lists and scalars, as JSON would give them back."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value


def what_differs(known: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    """The first thing in which two localizers differ, empty if none; of weights no digests."""
    for key in dict.fromkeys((*known, *identity)):
        if known.get(key) != identity.get(key):
            values = f"{known.get(key)}, here {identity.get(key)}"
            return f"{key}: {'others' if key == 'weights' else values}"
    return ""


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
            f"there is no saliency cache {path}: make it with `mmsalmask cache`, or give the "
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
            f"{FORMAT}): make it with `mmsalmask cache`"
        )
    return manifest


def refuse_another(out: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse to take a file for finished, or to overwrite it, that is another cache or none."""
    found = read_manifest(out)
    for key, wanted in manifest.items():
        known = found.get(key)
        if known == wanted:
            continue
        told = f"another {key} ({known}, here {wanted})"
        if key == "dataset":
            told = f"other images ({known['images']} of them, here {wanted['images']})"
        elif key == "localizer":
            told = f"another localizer ({what_differs(known, wanted)})"
        raise InputError(f"{out} is a cache of {told}: choose another --out, or delete that file")


def open_cache(path: str | Path) -> CachedSaliency:
    """A cache with its maps left in the file, of which the system reads what is used.

    Raises:
        InputError: as :func:`read_manifest`.
    """
    manifest = read_manifest(path)
    with safe_open(Path(path).expanduser(), framework="pt") as file:
        return _SavedSaliency(file.get_tensor("maps"), manifest, f"saliency cache {path}")
