"""Reading checkpoint files without running code from them.

A ``.pth`` file is a pickle, and unpickling calls whatever functions the file names. Here only
tensors, NumPy arrays and plain containers are rebuilt; anything else is refused by name.
"""

import difflib
import pickle
import pickletools
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from safetensors import SafetensorError, safe_open

from mmsalmask.errors import InputError, some_names

_SUFFIXES = (".pth", ".pt", ".safetensors")
_ZIP_HEAD = b"PK\x03\x04"
# A file of torch.save before its zip format starts with this number, pickled.
_LEGACY_HEAD = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)[:-1]


def load_checkpoint(
    path: str | Path, map_location: str | torch.device = "cpu", lazy: bool = False
) -> dict[str, Any]:
    """Load anybody's checkpoint without running code from it.

    Reads what mmengine's Runner, ``torch.save`` (zip and older format) and safetensors write. From
    a safetensors file comes ``dict(state_dict=..., meta=<its metadata>)``. mmengine's training
    history is read as inert objects, which :func:`revive` brings back to life.

    Args:
        path: a file, an ``http(s)://`` address or ``torchvision://<model>``.
        map_location: device of the tensors.
        lazy: map the tensors of torch.save's zip format instead of reading them, for a look at
            names, shapes and plain values.

    Raises:
        InputError: for a missing, damaged or foreign file, one that names code, one that holds no
            dict, and a failed download.
    """
    file = local_file(path)
    with file.open("rb") as stream:
        head = stream.read(16)
    if head[8:9] == b"{":
        return _load_safetensors(file, map_location)
    if head.startswith(_ZIP_HEAD):
        _check_zip(file)
    elif tarfile.is_tarfile(file):
        # torch < 2.6 reads this format with a pickle that does run code.
        raise InputError(f"{file} is a tar archive, which no torch.save of the last years writes")
    elif not head.startswith(_LEGACY_HEAD):
        what = "not a checkpoint that torch.save or safetensors wrote" if head else "an empty file"
        raise InputError(f"{file} is {what}")
    checkpoint = _load_pickle(file, map_location, lazy and head.startswith(_ZIP_HEAD))
    if not isinstance(checkpoint, dict):
        raise InputError(
            f"{file} holds a {type(checkpoint).__name__} where a checkpoint holds a dict of weights"
        )
    return checkpoint


def revive(part: Any) -> Any:
    """What :func:`load_checkpoint` read, with the true classes in place of inert ones.

    Resuming needs mmengine's HistoryBuffers, and NumPy arrays that can be saved once more.

    Args:
        part: a nest of dicts, lists and tuples; it stays as it is.
    """
    if isinstance(part, dict):
        copy = type(part)()
        copy.update({key: revive(value) for key, value in part.items()})
        return copy
    if isinstance(part, (list, tuple)):
        return type(part)(revive(value) for value in part)
    if isinstance(part, _Array):
        return np.array(part)
    if isinstance(part, _History):
        values, counts = np.array(part._log_history), np.array(part._count_history)
        return HistoryBuffer(values, counts, int(part.max_length))
    return part


def local_file(path: str | Path) -> Path:
    """The file that a path, an ``http(s)://`` address or ``torchvision://<model>`` stands for.

    Downloads go to torch's hub folder, once; a SHA-256 prefix in the file's name is checked.

    Raises:
        InputError: if there is no such file or model, or the download failed.
    """
    address = str(path)
    if address.startswith("torchvision://"):
        address = _torchvision_address(address.removeprefix("torchvision://"))
    if address.startswith(("http://", "https://")):
        return _download(address)
    file = Path(path).expanduser()
    if file.is_file():
        return file
    if file.is_dir():
        raise InputError(f"{file} is a folder, give one file{_holding(file)}")
    if not file.parent.is_dir():
        raise InputError(f"there is no checkpoint {file}: the folder {file.parent} does not exist")
    raise InputError(f"there is no checkpoint {file}{_holding(file.parent, file.name)}")


def _holding(folder: Path, wanted: str = "") -> str:
    """A clause that names the checkpoints of a folder, the most similar names first."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.suffix in _SUFFIXES)
    near = difflib.get_close_matches(wanted, names, n=3) or names
    return (
        f"; in that folder: {some_names(near, 3)}" if near else "; that folder holds no checkpoint"
    )


def _torchvision_address(model: str) -> str:
    from mmengine.runner.checkpoint import get_torchvision_models

    addresses = get_torchvision_models()
    if model not in addresses:
        near = difflib.get_close_matches(model, addresses, n=3) or ["resnet50"]
        raise InputError(
            f"torchvision has no weights named '{model}'; near names: {some_names(near)}"
        )
    return addresses[model]


def _download(address: str) -> Path:
    name = address.partition("?")[0].rpartition("/")[2]
    file = Path(torch.hub.get_dir(), "checkpoints", name)
    if file.is_file():
        return file
    digest = re.search(r"-([0-9a-f]{8,64})\.", name)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(
            address, str(file), hash_prefix=digest and digest[1], progress=False
        )
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"could not download {address} ({error}); a local file may be given instead"
        ) from error
    return file


def _load_safetensors(file: Path, map_location: str | torch.device) -> dict[str, Any]:
    try:
        with safe_open(file, "pt") as tensors:
            names = tensors.keys()
            state = {name: tensors.get_tensor(name).to(map_location) for name in names}
            return {"state_dict": state, "meta": tensors.metadata() or {}}
    except SafetensorError as error:
        raise _damaged(file, error) from error


def _check_zip(file: Path) -> None:
    try:
        if not zipfile.is_zipfile(file):
            raise _damaged(file, "the end of its archive is missing")
        with zipfile.ZipFile(file) as archive:
            members = {name.rpartition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, struct.error) as error:
        raise _damaged(file, last_words(error)) from error
    if "constants.pkl" in members:
        raise InputError(f"{file} contains code (a TorchScript program), refused: give its weights")
    if "data.pkl" not in members:
        raise InputError(f"{file} is a zip archive but not a checkpoint that torch.save wrote")


def _load_pickle(file: Path, map_location: str | torch.device, lazy: bool) -> Any:
    try:
        with _allow(_ALLOWED):
            return torch.load(file, map_location=map_location, weights_only=True, mmap=lazy)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (?:builtins\.)?(\S+)", str(error))
        if refused is None or _ends_in_pickle(file):
            raise _damaged(file, last_words(error)) from error
        raise InputError(
            f"{file} contains code or objects ({refused[1]}), refused: only tensors, arrays and "
            "plain values are read; save its state_dict alone if you trust it"
        ) from error
    except (
        RuntimeError,
        EOFError,
        OSError,
        struct.error,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        AssertionError,
    ) as error:
        raise _damaged(file, last_words(error)) from error


def _ends_in_pickle(file: Path) -> bool:
    """Whether a file of torch.save's older format is cut off before its tensors."""
    with file.open("rb") as stream:
        if stream.read(len(_LEGACY_HEAD)) != _LEGACY_HEAD:
            return False
        stream.seek(0)
        try:
            # Magic number, version, system and content are read as opcodes; nothing is built.
            for _ in range(4):
                for _ in pickletools.genops(stream):
                    pass
        except ValueError:
            return True
    return False


def last_words(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:160] if lines else type(error).__name__


def _damaged(file: Path, why: object) -> InputError:
    return InputError(f"{file} is truncated or damaged ({why}): copy or download it again")


def meta_of(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    meta = checkpoint.get("meta")
    return meta if isinstance(meta, Mapping) else {}


# --------------------------------------------------------------------------------------------------
# What a pickle may name
# --------------------------------------------------------------------------------------------------


# The classes and functions below stand in for those that a file names. The true ones are not safe
# to hand out: ``getattr`` reaches any object from any other, ``numpy.ndarray`` makes objects of raw
# bytes, and ``__setstate__`` of a dtype or a HistoryBuffer changes what the whole process uses.


class _Attributes:
    """Attributes and nothing else."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class _History(_Attributes):
    """For mmengine's HistoryBuffer."""


class _Arguments(_Attributes):
    """For ``argparse.Namespace``, in which many projects keep the options of their command line."""


class _DType:
    """For ``numpy.dtype``: numbers and fixed-length strings, in either byte order."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        self.dtype = np.dtype(code) if isinstance(code, str) else np.dtype(object)
        if self.dtype.kind not in "biufcSU":
            raise pickle.UnpicklingError(f"GLOBAL numpy.dtype({code!r})")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """For ``numpy.ndarray``: filled from bytes of the right number, made in no other way."""

    def __new__(cls, *args: Any) -> "_Array":
        raise pickle.UnpicklingError("GLOBAL numpy.ndarray as a function")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, shape, kind, by_column, content = state
        super().__setstate__((version, shape, kind.dtype, by_column, bytes(content)))


def _empty_array(*_: Any) -> _Array:
    """For NumPy's ``_reconstruct``, whose result is filled by ``__setstate__``."""
    return np.ndarray.__new__(_Array, (0,), np.uint8)


def _scalar(kind: _DType, content: bytes) -> np.generic:
    """For NumPy's ``scalar``."""
    return np.frombuffer(content, kind.dtype, 1)[0]


def _history_method(owner: object, name: str) -> str:
    """For ``getattr``, by which mmengine pickles the methods of its HistoryBuffer."""
    if owner is not _History:
        raise pickle.UnpicklingError("GLOBAL getattr")
    return f"HistoryBuffer.{name}"


def _named(stand_in: Callable, module: str, name: str) -> Callable:
    """Give a stand-in the name that files use, by which torch's allow-list finds it.

    Pairs of object and name would say the same, but the oldest supported torch does not know them.
    """

    def call(*args: Any) -> Any:
        return stand_in(*args)

    known = stand_in if isinstance(stand_in, type) else call
    known.__module__, known.__name__, known.__qualname__ = module, name, name
    return known


_ALLOWED = [
    _named(_History, "mmengine.logging.history_buffer", "HistoryBuffer"),
    _named(_Arguments, "argparse", "Namespace"),
    _named(_DType, "numpy", "dtype"),
    _named(_Array, "numpy", "ndarray"),
    # The names of NumPy 1 and 2.
    *(
        _named(_empty_array, f"numpy.{core}.multiarray", "_reconstruct")
        for core in ("core", "_core")
    ),
    *(_named(_scalar, f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")),
    # Pickles of protocol 2 use the names of Python 2; not every torch translates them.
    *(_named(_history_method, module, "getattr") for module in ("builtins", "__builtin__")),
    # Bytes in pickles of protocol 2; torch allows this itself from 2.5 on.
    _named(lambda text, encoding="latin1": text.encode("latin1"), "_codecs", "encode"),
    # Items are set into dict, OrderedDict and Counter alone, so a defaultdict is read as a dict.
    _named(lambda *_: {}, "collections", "defaultdict"),
    *(list, dict, set, int, float),
]


@contextmanager
def _allow(names: Iterable[Callable]) -> Iterator[None]:
    """Allow these names and no others; torch and other libraries have added theirs before."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(list(names))
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
