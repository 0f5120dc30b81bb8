"""The config of a pretraining: a recipe of this package, fitted to data, net, size and budget."""

import os
import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict

from mmsalmask import shipped
from mmsalmask.api.backbones import RESNETS, Backbone, backbone_config, build_backbone, channels_of
from mmsalmask.api.images import Data, image_paths, is_list_file
from mmsalmask.checkpoint import typed_parts
from mmsalmask.config import load_config
from mmsalmask.config.wording import ask, nearest
from mmsalmask.data.storage import StoredPath
from mmsalmask.engine.launch import use_amp
from mmsalmask.errors import InputError
from mmsalmask.files import write_atomically

# Of the recipes of one method, the first; those for a folder need no weights for their localizer.
_DATA = ("folder", "in100", "in1k")
_RECIPE = re.compile(
    rf"(?P<method>[a-z0-9-]+)_resnet50_(?P<gpus>\d+)xb(?P<batch>\d+)(-amp)?-[a-z]+lr-\d+e_"
    rf"(?P<data>{'|'.join(_DATA)})\.py"
)


class Recipe(NamedTuple):
    """A config that pretrains, and the number of images of a step, over all of its GPUs."""

    config: str
    batch_size: int


def list_methods() -> dict[str, Recipe]:
    """The methods that :func:`mmsalmask.pretrain` knows, by name, each with its recipe.

    Example:
        >>> import mmsalmask as sm
        >>> sm.list_methods()["mocov2-salmask-highpass"].batch_size
        128
    """
    found: dict[str, dict[str, Recipe]] = {}
    for file in sorted(shipped.CONFIGS.rglob("*_resnet50_*.py")):
        match = _RECIPE.fullmatch(file.name)
        if match is None or "-linear" in match["method"]:
            continue
        name = f"mmsalmask::{file.relative_to(shipped.CONFIGS)}"
        recipe = Recipe(name, int(match["gpus"]) * int(match["batch"]))
        found.setdefault(match["method"], {})[match["data"]] = recipe
    return {
        method: next(by_data[data] for data in _DATA if data in by_data)
        for method, by_data in sorted(found.items())
    }


def find_recipe(method: str) -> Recipe:
    """The recipe of a method.

    Raises:
        InputError: there is no such method; names the nearest.
    """
    methods = list_methods()
    if method not in methods:
        near = nearest(str(method), {name: name for name in methods}, count=3)
        known = "" if near else f": there are {', '.join(methods)}"
        raise InputError(f"no method named '{method}'{ask(near) or known}")
    return methods[method]


def fit_recipe(
    recipe: Recipe,
    dataset: Mapping[str, Any],
    backbone: Backbone,
    size: int,
    epochs: int,
    batch_size: int,
    lr: float | None,
    amp: str | None,
    devices: int,
    localizer: Mapping[str, Any] | str | None,
) -> tuple[Config, str]:
    """Fit a recipe to what is to be trained.

    Args:
        recipe: of the method.
        dataset: config of the images, without pipeline.
        backbone: a name or a config, see :func:`mmsalmask.api.backbones.backbone_config`.
        size: of the views, in pixels.
        epochs: warm-ups of the recipe are shortened in proportion, never lengthened.
        batch_size: images of a step over all devices.
        lr: ``None`` for the recipe's, in proportion to the batch.
        amp: ``"float16"``, ``"bfloat16"`` or ``None``.
        devices: processes.
        localizer: its config, or the name of its class, instead of the recipe's.

    Returns:
        The config, and the learning rate with the rule that gave it, in words.

    Raises:
        InputError: the parts do not fit each other.
    """
    if batch_size % devices:
        raise InputError(
            f"batch_size {batch_size} cannot be divided over {devices} devices: give a multiple"
        )
    config = load_config(recipe.config)
    _set_data(config, dataset, batch_size // devices, devices)
    set_size(config, size)
    _set_backbone(config, backbone)
    set_localizer(config, localizer)
    _set_epochs(config, epochs)
    told = _set_lr(config, lr, Fraction(batch_size, recipe.batch_size), batch_size)
    if amp is not None:
        if amp not in ("float16", "bfloat16"):
            raise InputError(f"amp must be None, 'float16' or 'bfloat16', got {amp!r}")
        use_amp(config, amp)
    return config, told


def _set_data(config: Config, dataset: Mapping[str, Any], batch: int, devices: int) -> None:
    loader = config.train_dataloader
    pipeline = loader.dataset.pipeline
    if pipeline[0].type == "LoadImageFromFile":  # of mmpretrain's recipes; fails on broken images
        pipeline[0] = ConfigDict(type="mmsalmask.LoadImage")
    loader.dataset = ConfigDict(**dataset, pipeline=pipeline)
    if "data_root" in config:
        config.data_root = dataset["data_root"]
    loader.batch_size = batch
    loader.num_workers = max(0, min(loader.num_workers, (os.cpu_count() or 1) // devices))
    loader.persistent_workers = loader.num_workers > 0


def set_size(config: Config, size: int) -> None:
    """Make the views of a recipe, on the CPU or on the device, of so many pixels a side."""
    for part in typed_parts(config.train_dataloader.dataset.pipeline):
        kind = part["type"].rpartition(".")[2]
        if kind == "RandomResizedCrop":
            part["scale"] = size
        elif kind == "LoadWhole":
            part["size"] = round(size * 9 / 7)
    for name in ("model", "data_preprocessor"):
        for part in typed_parts(config.get(name)):
            if part["type"].rpartition(".")[2] in ("RandomView", "MaskUNet"):
                part["size"] = size


def _set_backbone(config: Config, backbone: Backbone) -> None:
    model = config.model
    if isinstance(backbone, str) and backbone in RESNETS:
        model.backbone.depth = RESNETS[backbone]
    else:
        model.backbone = ConfigDict(backbone_config(backbone))
    neck = model.neck
    old, new = neck.in_channels, channels_of(build_backbone(model.backbone))
    if neck.get("hid_channels") == old:  # as MoCo v2's and SimCLR's follow the backbone
        neck.hid_channels = new
    neck.in_channels = new


def set_localizer(config: Config, localizer: Mapping[str, Any] | str | None) -> None:
    """Give the maskers of a recipe another localizer, if one is given."""
    if localizer is None:
        return
    maskers = [
        part
        for name in ("model", "data_preprocessor")
        for part in typed_parts(config.get(name))
        if part["type"].endswith("SaliencyMasker") and part.get("localizer") is not None
    ]
    if not maskers:
        raise InputError("this method masks without a localizer: leave localizer out")
    chosen = dict(type=localizer) if isinstance(localizer, str) else dict(localizer)
    if "." not in str(chosen.get("type", ".")):
        chosen["type"] = f"mmsalmask.{chosen['type']}"
    for masker in maskers:
        masker["localizer"] = ConfigDict(chosen)


def _set_epochs(config: Config, epochs: int) -> None:
    """As many epochs as asked for; the end of the recipe's schedule moves along."""
    before = config.train_cfg.max_epochs
    share = min(Fraction(1), Fraction(epochs, before))
    schedules = config.param_scheduler
    for schedule in schedules:
        begin = int(schedule.get("begin", 0) * share)
        end = schedule.get("end")
        if "begin" in schedule:
            schedule.begin = begin
        if end is not None:
            schedule.end = epochs if end == before else int(end * share)
        if "T_max" in schedule:
            schedule.T_max = schedule.get("end", epochs) - begin
    config.param_scheduler = [
        schedule for schedule in schedules if schedule.get("end", epochs) > schedule.get("begin", 0)
    ]
    config.train_cfg.max_epochs = epochs
    hooks = config.default_hooks
    hooks.checkpoint.interval = min(hooks.checkpoint.get("interval", 10), epochs)


def _set_lr(config: Config, lr: float | None, factor: Fraction, batch: int) -> str:
    """Set the learning rate of every optimizer; say what it is and why."""
    wrapper = config.optim_wrapper
    own = (wrapper.get("paramwise_cfg") or {}).get("mask_net") or {}
    optimizers = [part for part in (wrapper.optimizer, own.get("optimizer")) if part]
    recipes = optimizers[0].lr
    value = float(recipes * factor) if lr is None else lr
    for optimizer in optimizers:
        optimizer.lr = optimizer.lr * value / recipes
    if lr is not None:
        return f"lr {value:g}, as given"
    return f"lr {value:g} for {batch} images a step (the recipe's {recipes:g} for {batch / factor})"


def dataset_config(data: Data, out: Path) -> dict:
    """The config of the images: a folder or other storage, a list of folders, a file of paths.

    The images of several folders are listed in ``out/images.txt``.

    Raises:
        InputError: one of them is not there or has no images, or is one of several and no folder.
    """
    if isinstance(data, str | os.PathLike):
        kind = "ImageList" if is_list_file(data) else "ImageFolder"
        if kind == "ImageList":
            image_paths(data)
        return dict(type=f"mmsalmask.{kind}", data_root=os.path.abspath(os.path.expanduser(data)))
    paths = image_paths(data)
    for path in paths:
        if isinstance(path, StoredPath):
            raise InputError(
                f"{path.storage.root} holds images that are no files of their own, which a list of "
                "sources cannot name: give it alone, or unpack it into a folder"
            )
    listing = out / "images.txt"
    content = os.fsencode("".join(f"{os.path.abspath(path)}\n" for path in paths))
    if not listing.exists() or listing.read_bytes() != content:
        write_atomically(listing, content)
    return dict(type="mmsalmask.ImageList", data_root=str(listing.absolute()))
