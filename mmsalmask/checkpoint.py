"""Checkpoint files: read without running code from them, find the backbone, write it for others.

A ``.pth`` file is a pickle, and unpickling calls whatever functions the file names. Here only
tensors, NumPy arrays and plain containers are rebuilt; anything else is refused by name.
"""

import ast
import difflib
import hashlib
import os
import pickle
import pickletools
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, MMLogger
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import mmsalmask
from mmsalmask.errors import InputError

Naming = Literal["openmmlab", "torchvision", "detectron2"]

_SUFFIXES = (".pth", ".pt", ".safetensors")
_ZIP_HEAD = b"PK\x03\x04"
# A file of torch.save before its zip format starts with this number, pickled.
_LEGACY_HEAD = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)[:-1]


# --------------------------------------------------------------------------------------------------
# Reading
# --------------------------------------------------------------------------------------------------


def load_checkpoint(path: str | Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Load a checkpoint of anybody's without running code from it.

    Reads what mmengine's Runner, ``torch.save`` (zip and older format) and safetensors write. From
    a safetensors file comes ``dict(state_dict=..., meta=<its metadata>)``. mmengine's training
    history is read as inert objects, which :func:`revive` brings back to life.

    Args:
        path: a file, an ``http(s)://`` address or ``torchvision://<model>``.
        map_location: device of the tensors.

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
    checkpoint = _load_pickle(file, map_location)
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
    """A clause that names the checkpoints of a folder, those named most alike first."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.suffix in _SUFFIXES)
    near = difflib.get_close_matches(wanted, names, n=3) or names
    return f"; in that folder: {_list(near, 3)}" if near else "; that folder holds no checkpoint"


def _torchvision_address(model: str) -> str:
    from mmengine.runner.checkpoint import get_torchvision_models

    addresses = get_torchvision_models()
    if model not in addresses:
        near = difflib.get_close_matches(model, addresses, n=3) or ["resnet50"]
        raise InputError(f"torchvision has no weights named '{model}'; near names: {_list(near)}")
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
        raise _damaged(file, _last_words(error)) from error
    if "constants.pkl" in members:
        raise InputError(f"{file} contains code (a TorchScript program), refused: give its weights")
    if "data.pkl" not in members:
        raise InputError(f"{file} is a zip archive but not a checkpoint that torch.save wrote")


def _load_pickle(file: Path, map_location: str | torch.device) -> Any:
    try:
        with _allow(_ALLOWED):
            return torch.load(file, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None or _ends_in_pickle(file):
            raise _damaged(file, _last_words(error)) from error
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
        raise _damaged(file, _last_words(error)) from error


def _ends_in_pickle(file: Path) -> bool:
    """Whether a file of torch.save's older format is cut off before its tensors, as in a name."""
    with file.open("rb") as stream:
        if stream.read(len(_LEGACY_HEAD)) != _LEGACY_HEAD:
            return False
        stream.seek(0)
        try:
            # Magic number, version, system and content: read as a listing, nothing is built.
            for _ in range(4):
                for _ in pickletools.genops(stream):
                    pass
        except ValueError:
            return True
    return False


def _last_words(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:160] if lines else type(error).__name__


def _damaged(file: Path, why: object) -> InputError:
    return InputError(f"{file} is truncated or damaged ({why}): copy or download it again")


# --------------------------------------------------------------------------------------------------
# What a pickle may name
# --------------------------------------------------------------------------------------------------


# The classes and functions below stand in for those that a file names. The true ones are no safe
# gifts: ``getattr`` reaches any object from any other, ``numpy.ndarray`` makes objects of raw
# bytes, and ``__setstate__`` of a dtype or a HistoryBuffer changes what the whole process uses.


class _History:
    """For mmengine's HistoryBuffer: its attributes and nothing else."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


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
    # Items are set into dict, OrderedDict and Counter alone, so a defaultdict is read as a dict.
    _named(lambda *_: {}, "collections", "defaultdict"),
    *(list, dict, int, float),
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


# --------------------------------------------------------------------------------------------------
# The backbone in a checkpoint
# --------------------------------------------------------------------------------------------------

_RESNET_TOPS = re.compile(r"(conv1|bn1|stem|layer\d)\.")
_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_RESNET_NAMES = [
    (re.compile(r"conv1\.weight"), r"stem.conv1.weight"),
    (re.compile(rf"bn1\.{_NORM}"), r"stem.conv1.norm.\1"),
    (re.compile(r"layer(\d)\.(\d+)\.conv(\d)\.weight"), r"res{}.\2.conv\3.weight"),
    (re.compile(rf"layer(\d)\.(\d+)\.bn(\d)\.{_NORM}"), r"res{}.\2.conv\3.norm.\4"),
    (re.compile(r"layer(\d)\.(\d+)\.downsample\.0\.weight"), r"res{}.\2.shortcut.weight"),
    (re.compile(rf"layer(\d)\.(\d+)\.downsample\.1\.{_NORM}"), r"res{}.\2.shortcut.norm.\3"),
]


def backbone_state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The query encoder's backbone, in mmpretrain's names and without prefix.

    Known layouts: a ``state_dict`` with ``backbone.`` keys (this project's, mmpretrain's and
    mmselfsup's algorithms and classifiers), a ResNet's own state dict (torchvision's included, its
    ``fc`` is dropped), and what ``tools/export_backbone.py`` wrote in those names. The momentum
    encoder, necks, heads and queues have other prefixes and stay behind.

    Raises:
        InputError: when there is no backbone; names the prefixes that were found.
    """
    state = checkpoint.get("state_dict", checkpoint)
    if not isinstance(state, Mapping):
        state = {}
    prefixed = {
        name.removeprefix("backbone."): value
        for name, value in state.items()
        if isinstance(name, str) and name.startswith("backbone.")
    }
    backbone = prefixed or _plain_backbone(checkpoint, state)
    if not backbone or not all(isinstance(value, Tensor) for value in backbone.values()):
        tops = sorted({str(name).partition(".")[0] for name in state})
        raise InputError(
            "the checkpoint holds no backbone: its keys begin with "
            f"{_list(tops, 10) or 'nothing'}, not with 'backbone.' or a ResNet's names"
        )
    return backbone


def _plain_backbone(checkpoint: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict that is a backbone by itself; empty if it is not."""
    if _meta(checkpoint).get("naming") == "openmmlab":
        return dict(state)
    backbone = {
        name: value
        for name, value in state.items()
        if isinstance(name, str) and not name.startswith("fc.")
    }
    if not any(name.startswith("layer1.") for name in backbone):
        return {}
    return backbone if all(_RESNET_TOPS.match(name) for name in backbone) else {}


def check_matches(module: nn.Module, state: Mapping[str, Any], name: str) -> None:
    """Raise unless a state dict fits a module: the same keys and the same shapes.

    BatchNorm's ``num_batches_tracked``, absent from files of older torch, may be missing.

    Args:
        name: of the checkpoint, for the message.

    Raises:
        InputError: with the numbers of missing, unexpected and wrongly shaped tensors and the
            first five of each.
    """
    _refuse_mismatch(module.state_dict(), state, name, f"this {type(module).__name__}")


def _refuse_mismatch(
    wanted: Mapping[str, Any],
    state: Mapping[str, Any],
    name: str,
    whose: str,
    required: Callable[[str], Any] = lambda key: True,
) -> None:
    """Raise unless a state dict has the keys wanted, or of them those required, and no others."""
    optional = "num_batches_tracked"
    missing = [
        key for key in wanted if key not in state and not key.endswith(optional) and required(key)
    ]
    unexpected = [key for key in state if key not in wanted]
    misshapen = [
        f"{key} {_shape(state[key])} instead of {_shape(value)}"
        for key, value in wanted.items()
        if key in state and _shape(state[key]) != _shape(value)
    ]
    found = [
        f"{len(keys)} {what} ({_list(keys)})"
        for what, keys in [
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", misshapen),
        ]
        if keys
    ]
    if found:
        raise InputError(
            f"{name} is a checkpoint of another architecture than {whose}: {'; '.join(found)}"
        )


def check_start(modules: Iterable[nn.Module], checkpoint: Mapping[str, Any], name: str) -> None:
    """Raise unless a backbone's file and the modules that start from it fit without remainder.

    mmengine's ``init_cfg=dict(type='Pretrained', checkpoint=...)`` takes what fits and leaves the
    rest at random without a word: for a ResNet-50 given a ResNet-101, or given a whole pretraining
    checkpoint. Several modules may share a file, as a C4 detector's backbone and its shared head.
    What a plain ResNet does not have (a norm added at its end, deformable offsets) may be missing.

    Modules without a ResNet's names are judged only with files of ``tools/export_backbone.py``.

    Args:
        modules: all that start from the file.
        checkpoint: the file, as :func:`load_checkpoint` reads it.
        name: of the file, for the message.

    Raises:
        InputError: for a backbone of another depth, width, stem or style, and for a file that
            holds more than a backbone.
    """
    modules = list(modules)
    state = checkpoint.get("state_dict", checkpoint)
    wanted = {key: value for module in modules for key, value in module.state_dict().items()}
    resnet = any(map(_detectron2_name, wanted))
    if not resnet and "mmsalmask_version" not in _meta(checkpoint):
        return
    if any(key.startswith("backbone.") for key in state):
        raise InputError(
            f"{name} holds more than a backbone, and none of it would be loaded: take the backbone "
            "out with tools/export_backbone.py"
        )
    own = {key: value for key, value in state.items() if not key.startswith("fc.")}
    whose = " and ".join(dict.fromkeys(type(module).__name__ for module in modules))
    _refuse_mismatch(
        wanted, own, name, f"this {whose}", required=_detectron2_name if resnet else bool
    )
    style = _meta(checkpoint).get("style")
    for module in modules:
        if style in ("pytorch", "caffe") and getattr(module, "style", style) != style:
            raise InputError(
                f"{name} is a ResNet of style '{style}', this {type(module).__name__} one of style "
                f"'{module.style}': the weights would fit and compute something else"
            )


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _list(names: Iterable[str], most: int = 5) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


# --------------------------------------------------------------------------------------------------
# Names of other libraries
# --------------------------------------------------------------------------------------------------


def to_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's names of a ResNet's tensors: mmpretrain's own, if the net is a plain ResNet.

    Raises:
        InputError: for a net that torchvision's ResNet cannot hold (deep stem, other layers).
    """
    _refuse_foreign(state, "torchvision's ResNet")
    return dict(state)


def to_detectron2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """detectron2's names of a ResNet's tensors (``stem``, ``res2`` … ``res5``, ``shortcut``).

    ``num_batches_tracked`` is left out: detectron2's frozen BatchNorm has none, and no layer with a
    fixed momentum uses it.

    Raises:
        InputError: for a net that detectron2's ResNet cannot hold (deep stem, other layers).
    """
    _refuse_foreign(state, "detectron2's ResNet")
    return {
        _detectron2_name(name): value
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }


def _detectron2_name(name: str) -> str | None:
    """detectron2's name for a tensor of a plain ResNet; ``None`` for any other tensor."""
    for pattern, template in _RESNET_NAMES:
        match = pattern.fullmatch(name)
        if match:
            stage = int(match[1]) + 1 if name.startswith("layer") else ""
            return match.expand(template).format(stage)
    return None


def _refuse_foreign(state: Mapping[str, Tensor], target: str) -> None:
    lost = [name for name in state if _detectron2_name(name) is None]
    if lost:
        raise InputError(
            f"{target} has no place for {len(lost)} of {len(state)} tensors, which would be lost: "
            f"{_list(lost, 10)}"
        )


# --------------------------------------------------------------------------------------------------
# Writing
# --------------------------------------------------------------------------------------------------


def save_backbone(
    state: Mapping[str, Tensor], path: str | Path, naming: Naming, metadata: Mapping[str, str]
) -> dict[str, Tensor]:
    """Write a backbone under the names of ``naming``; the file appears whole or not at all.

    ``.pth``: ``dict(state_dict=..., meta=metadata)``. ``.safetensors``: the tensors, the metadata
    in the header. detectron2's own layout, ``.pkl`` (NumPy arrays) or ``.pth``: ``dict(model=...,
    __author__=..., matching_heuristics=True, meta=metadata)``.

    Args:
        state: in mmpretrain's names, see :func:`backbone_state`.

    Returns:
        The tensors as written.

    Raises:
        InputError: for tensors that have no place under those names, a suffix that does not fit,
            and a file that cannot be written (a full disk); what lay there before stays.
    """
    path = Path(path)
    convert = {"openmmlab": dict, "torchvision": to_torchvision, "detectron2": to_detectron2}
    # A copy of each: a view would bring its whole storage into the file.
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in convert[naming](state).items()
    }
    write = _writer(path, naming, tensors, {**metadata, "naming": naming})
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        part.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise InputError(f"could not write {path} ({_last_words(error)})") from error
    finally:
        part.unlink(missing_ok=True)
    return tensors


def _writer(
    path: Path, naming: Naming, tensors: dict[str, Tensor], metadata: dict[str, str]
) -> Callable[[Path], None]:
    wrapper = {"__author__": "mmsalmask", "matching_heuristics": True, "meta": metadata}
    if path.suffix == ".safetensors":
        return lambda part: save_file(tensors, part, metadata)
    if path.suffix == ".pth" and naming == "detectron2":
        return lambda part: torch.save({"model": tensors, **wrapper}, part)
    if path.suffix == ".pth":
        return lambda part: torch.save({"state_dict": tensors, "meta": metadata}, part)
    if path.suffix == ".pkl" and naming == "detectron2":
        arrays = {name: value.numpy() for name, value in tensors.items()}
        content = pickle.dumps({"model": arrays, **wrapper}, protocol=2)
        return lambda part: part.write_bytes(content) and None
    raise InputError(
        f"cannot write {path.name} for {naming}: use .pth or .safetensors, "
        "or .pkl for detectron2 alone"
    )


# --------------------------------------------------------------------------------------------------
# Where a backbone comes from
# --------------------------------------------------------------------------------------------------


def describe(checkpoint: Mapping[str, Any], source: Path) -> dict[str, str]:
    """Where an exported backbone comes from, as the strings that its file carries.

    ``mmsalmask_version``; ``source`` and ``source_sha256`` of the file; ``model``, ``backbone``,
    ``depth`` and ``style`` from the config in the checkpoint (read, not executed), ``epoch`` and
    ``iter``; ``high_pass``: "true" if the encoder saw high-pass filtered images, which it must then
    see downstream too, "false" if not. What cannot be known is "unknown"; what an exported file
    said about itself is passed on.
    """
    meta = _meta(checkpoint)
    model = _config(checkpoint).get("model")
    known = {name: meta[name] for name in ("epoch", "iter") if name in meta}
    if isinstance(model, dict):
        backbone = model.get("backbone")
        backbone = backbone if isinstance(backbone, dict) else {}
        # What a ResNet of mmpretrain is where its config says nothing.
        style = "pytorch" if "depth" in backbone else None
        known |= {
            "model": model.get("type"),
            "backbone": backbone.get("type"),
            "depth": backbone.get("depth"),
            "style": backbone.get("style", style),
        }
    elif "mmsalmask_version" in meta:
        known |= {name: meta.get(name) for name in _FACTS}
    high_pass = saw_high_pass(checkpoint)
    known["high_pass"] = None if high_pass is None else str(high_pass).lower()
    return {
        "mmsalmask_version": mmsalmask.__version__,
        "source": source.name,
        "source_sha256": _sha256(source),
        **{
            name: "unknown" if known.get(name) is None else str(known[name])
            for name in (*_FACTS, "epoch", "iter")
        },
    }


_FACTS = ("model", "backbone", "depth", "style", "high_pass")


def saw_high_pass(checkpoint: Mapping[str, Any]) -> bool | None:
    """Whether the encoder in a checkpoint learned from high-pass filtered images.

    A run's checkpoint tells it by its config, an exported backbone by what it says about itself;
    ``None`` for one that tells nothing (torchvision's, for example).
    """
    config = _config(checkpoint)
    if isinstance(config.get("model"), dict):
        return is_high_pass(config)
    return {"true": True, "false": False}.get(_meta(checkpoint).get("high_pass"))


def is_high_pass(config: Mapping[str, Any], loader: str = "train_dataloader") -> bool:
    """Whether a config's masking strategy or the pipeline of ``loader`` filters the images."""
    return any(
        part["type"].rpartition(".")[2].startswith("HighPass")
        for name in ("model", "data_preprocessor", loader)
        for part in typed_parts(config.get(name))
    )


def warn_if_filter_differs(
    checkpoint: Mapping[str, Any], name: str, filtered: Mapping[str, bool]
) -> None:
    """Warn loudly where images lack the high-pass filter that a backbone learned with, or have one.

    Such a backbone still computes something, and its figures are merely far too low. Every way to
    use a backbone comes by here: ``tools/train.py`` and ``tools/test.py`` look at all files that
    the config's model starts from, whatever the library, ``tools/knn.py`` and ``tools/linear.py``
    at theirs. A checkpoint that does not say how it was pretrained warns of nothing.

    Args:
        checkpoint: as :func:`load_checkpoint` reads it, a run's or an exported backbone.
        name: of the checkpoint, for the message.
        filtered: whether images are high-pass filtered, by what the message shall call them, for
            example ``{"train_dataloader": True, "test_dataloader": False}``.
    """
    expected = saw_high_pass(checkpoint)
    different = [images for images, answer in filtered.items() if answer != expected]
    if expected is None or not different:
        return
    learned, given, mend = (
        ("HIGH-PASS FILTERED", "not filtered", "with mmsalmask.HighPassFilter in")
        if expected
        else ("PLAIN", "high-pass filtered", "without mmsalmask.HighPassFilter in")
    )
    MMLogger.get_current_instance().warning(
        f"{name} LEARNED FROM {learned} IMAGES, but those of {_list(different)} are {given}: its "
        f"figures will be far too low. Use the config of its pretraining, or one {mend} the "
        "pipelines of training and test"
    )


def _config(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The config in a run's checkpoint; empty if there is none that can be read."""
    text = _meta(checkpoint).get("cfg")
    return read_config(text) if isinstance(text, str) else {}


def _meta(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    meta = checkpoint.get("meta")
    return meta if isinstance(meta, Mapping) else {}


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def typed_parts(part: Any) -> Iterator[dict[str, Any]]:
    """Every dict with a ``type='...'`` in a nest of dicts, lists and tuples."""
    if isinstance(part, dict):
        if isinstance(part.get("type"), str):
            yield part
        part = list(part.values())
    if isinstance(part, (list, tuple)):
        for value in part:
            yield from typed_parts(value)


def read_config(text: str) -> dict[str, Any]:
    """The values of a config text as mmengine writes it, read without executing it.

    ``mmengine.Config.fromstring`` runs the text as Python. Here only assignments of literals and of
    ``dict(name=...)`` are understood; a text with anything else gives an empty dict.
    """
    try:
        return {
            target.id: _literal(statement.value)
            for statement in ast.parse(text).body
            for target in _targets(statement)
        }
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return {}


def _targets(statement: ast.stmt) -> list[ast.Name]:
    if isinstance(statement, ast.Assign) and all(
        isinstance(t, ast.Name) for t in statement.targets
    ):
        return statement.targets
    raise ValueError("not an assignment")


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        plain = isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args
        if plain and all(keyword.arg for keyword in node.keywords):
            return {keyword.arg: _literal(keyword.value) for keyword in node.keywords}
        raise ValueError("a call")
    if isinstance(node, ast.Dict) and all(node.keys):
        return {
            ast.literal_eval(key): _literal(value)
            for key, value in zip(node.keys, node.values, strict=True)
        }
    if isinstance(node, (ast.List, ast.Tuple)):
        values = [_literal(element) for element in node.elts]
        return values if isinstance(node, ast.List) else tuple(values)
    if isinstance(node, ast.Name) and node.id in ("inf", "nan"):
        return float(node.id)
    return ast.literal_eval(node)
