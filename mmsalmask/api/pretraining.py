"""Pretraining on any images by one call, through the same launch as ``mmsalmask train``."""

import math
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

from mmsalmask.api.backbones import Backbone
from mmsalmask.api.images import Data, image_paths
from mmsalmask.api.recipes import dataset_config, find_recipe, fit_recipe
from mmsalmask.api.run import Run
from mmsalmask.checkpoint import load_checkpoint, typed_parts
from mmsalmask.checks import check_integer, is_number
from mmsalmask.config import add_imports, load_config
from mmsalmask.engine.launch import (
    build_runner,
    has_checkpoint,
    own_work_dir,
    refuse_held,
    set_resume,
    train,
)
from mmsalmask.engine.tracking import use_tracker
from mmsalmask.errors import InputError, Stopped
from mmsalmask.jobs import show
from mmsalmask.parts import Part
from mmsalmask.registry import DATASETS, HOOKS, MODELS, TRANSFORMS

_STOPPED_STATUS = 75
_LARGE_FOR_A_CPU = 128  # pixels


def pretrain(
    data: Data,
    out: str | os.PathLike,
    method: str = "mocov2-salmask-highpass",
    backbone: Backbone = "resnet50",
    size: int = 224,
    epochs: int = 200,
    batch_size: int = 128,
    lr: float | None = None,
    amp: str | None = None,
    devices: int = 1,
    localizer: Mapping[str, Any] | str | None = None,
    overrides: Mapping[str, Any] | None = None,
    resume: bool | str | os.PathLike = "auto",
    tracker: str | None = None,
) -> Run:
    """Pretrain a backbone on images without labels.

    The method's recipe is fitted to the arguments and written to ``out/config.py``, from which
    ``mmsalmask train out/config.py --work-dir out`` would train the same.

    Args:
        data: a folder, in which images are searched to any depth; a text file with a path a line;
            or a list of such.
        out: the folder of checkpoints, logs and pictures.
        method: one of :func:`mmsalmask.list_methods`.
        backbone: ``resnet18`` … ``resnet152``; a ConvNet of torchvision; ``timm/<name>``; or a
            config of mmpretrain's.
        size: of the views, in pixels.
        epochs: over all images.
        batch_size: images of a step, over all devices.
        lr: at the start; ``None`` takes the recipe's, in proportion to ``batch_size``, and prints
            it.
        amp: ``"bfloat16"`` or ``"float16"`` for mixed precision.
        devices: GPUs, one process each; more than one are started through torchrun. Without a GPU
            the processes share the CPU.
        localizer: its config, or the name of its class, instead of the recipe's.
        overrides: of config keys, by dotted path, e.g. ``{"model.queue_len": 4096}``.
        resume: ``"auto"`` goes on with the run that ``out`` holds, if it does; ``True`` demands
            one, ``False`` refuses one; or a checkpoint.
        tracker: ``"wandb"`` or ``"mlflow"`` for curves there, too; a resumed run goes on in them.

    Returns:
        The run, trained to its end.

    Raises:
        InputError: something does not fit or is not there; the sentence says what.
        mmsalmask.errors.Stopped: a signal ended the run after it was saved; the same call goes on.

    Example:
        >>> import mmsalmask as sm
        >>> run = sm.pretrain(photos, out, backbone="resnet18", size=32, epochs=1, batch_size=4,
        ...                   overrides={"model.queue_len": 16})  # doctest: +ELLIPSIS
        lr 0.00046875 for 4 images a step (the recipe's 0.015 for 128)
        ...
        >>> run.backbone().size
        32
    """
    for name, value in dict(
        size=size, epochs=epochs, batch_size=batch_size, devices=devices
    ).items():
        check_integer(name, value)
    if lr is not None and not is_number(lr, 0):
        raise InputError(f"lr must be a number that is not negative, or None, got {lr!r}")
    if overrides is not None and not isinstance(overrides, Mapping):
        raise InputError(f"overrides must be a dict, dotted path → value, got {overrides!r}")
    recipe = find_recipe(method)
    _check_devices(devices)
    _check_number(data, batch_size)
    folder = _make_folder(out)
    dataset = dataset_config(data, folder)
    fitted, told = fit_recipe(
        recipe, dataset, backbone, size, epochs, batch_size, lr, amp, devices, localizer
    )
    fitted.work_dir = str(folder)
    if tracker is not None:
        use_tracker(fitted, tracker)
    config = _write(fitted, folder, dict(overrides or {}), resume)
    print(told, flush=True)
    if size > _LARGE_FOR_A_CPU and not torch.cuda.is_available():
        print(
            f"no GPU was found, and a CPU is slow at size {size}: to try things, take backbone "
            "resnet18 at size 64"
        )
    if devices == 1:
        _train_here(config, resume)
    else:
        _train_through_torchrun(config, devices, resume)
    return Run(folder)


def _make_folder(out: str | os.PathLike) -> Path:
    folder = Path(out).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"out {folder} cannot be made ({error.strerror}): choose another"
        ) from error
    return folder


def _check_devices(devices: int) -> None:
    gpus = torch.cuda.device_count()
    if gpus and devices > gpus:
        raise InputError(f"devices is {devices}, but this machine has {gpus} GPUs: give fewer")


def _check_number(data: Data, batch_size: int) -> None:
    number = len(image_paths(data))
    if number < batch_size:
        raise InputError(
            f"data has {number} images, fewer than the batch_size {batch_size}: give more images "
            f"or batch_size={number}"
        )


def _write(
    fitted: Config, folder: Path, overrides: dict[str, Any], resume: bool | str | os.PathLike
) -> Config:
    """Write a fitted recipe, with overrides, as ``config.py`` of its folder, and read it back."""
    file, draft = folder / "config.py", folder / ".config.py"
    try:
        fitted.dump(draft)
        config = load_config(str(draft), overrides)
        _import_own(config)
        if not resume:
            refuse_held(config)
        elif file.exists() and has_checkpoint(config):
            _refuse_other_run(config, load_config(str(file)), folder)
        config.dump(draft)
        os.replace(draft, file)
    finally:
        draft.unlink(missing_ok=True)
    return load_config(str(file))


def _import_own(config: Config) -> None:
    """Let whoever reads a config import the modules of the user's classes that it names."""
    registered = dict(Part.registered())
    for registry in (MODELS, DATASETS, TRANSFORMS, HOOKS):
        registered |= registry.module_dict
    named = (part["type"].rpartition(".")[2] for part in typed_parts(config.to_dict()))
    modules = {registered[name].__module__ for name in named if name in registered}
    known = "mmsalmask", "__main__"
    if own := sorted(name for name in modules if name.partition(".")[0] not in known):
        add_imports(config, own)


def _refuse_other_run(new: Config, old: Config, folder: Path) -> None:
    for key in ("model", "train_dataloader", "optim_wrapper"):
        a, b = (_plain(config.get(key)) for config in (new, old))
        # Another optimizer is for what is left to train.
        if a != b and (key != "optim_wrapper" or _finished(new, folder)):
            different = next((part for part in a if a[part] != b.get(part)), "")
            raise InputError(
                f"{folder} holds a run with another {key}.{different}: choose another folder, or "
                "delete that folder"
            )


def _finished(config: Config, folder: Path) -> bool:
    trained = load_checkpoint(Run(folder).checkpoint, lazy=True)["meta"].get("epoch", 0)
    return trained >= config.train_cfg.get("max_epochs", math.inf)


def _plain(part: Any) -> Any:
    """Without the settings of the machine, which may differ when a run goes on."""
    return {
        key: value
        for key, value in (part.to_dict() if hasattr(part, "to_dict") else dict(part or {})).items()
        if key not in ("num_workers", "persistent_workers")
    }


def _train_here(config: Config, resume: bool | str | os.PathLike) -> None:
    with _own_instances():
        config.launcher = "none"
        if not isinstance(resume, bool) and resume != "auto":
            set_resume(config, os.fspath(resume))
        elif resume is True or (resume == "auto" and has_checkpoint(config)):
            set_resume(config, "auto")
        with own_work_dir(config):
            train(build_runner(config, quiet=True))


@contextmanager
def _own_instances() -> Iterator[None]:
    """Let go of what mmengine keeps by name: the next run would write into this one's log."""
    kinds = (MMLogger, MessageHub, Visualizer, DefaultScope)
    known = {kind: dict(kind._instance_dict) for kind in kinds}
    try:
        yield
    finally:
        for name, logger in MMLogger._instance_dict.items():
            if name not in known[MMLogger]:
                for handler in list(logger.handlers):
                    logger.removeHandler(handler)
                    with suppress(OSError):
                        handler.close()
        for kind in kinds:
            kind._instance_dict.clear()
            kind._instance_dict.update(known[kind])


def _train_through_torchrun(config: Config, devices: int, resume: bool | str | os.PathLike) -> None:
    command = [sys.executable, "-m", "mmsalmask.torchrun", f"--nproc_per_node={devices}"]
    command += ["--nnodes=1", "--master_addr=127.0.0.1", f"--master_port={_free_port()}"]
    command += ["-m", "mmsalmask", "train", config.filename, "--launcher", "pytorch"]
    if not isinstance(resume, bool) and resume != "auto":
        command += ["--resume", os.fspath(resume)]
    elif resume is True or (resume == "auto" and has_checkpoint(config)):
        command += ["--resume"]
    status, last = show(command)
    if status == _STOPPED_STATUS:
        raise Stopped(last)
    if status:
        raise InputError(last.removeprefix("error: "))


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
