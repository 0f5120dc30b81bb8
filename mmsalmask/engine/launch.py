"""From a checked config to a runner that trains or tests."""

import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from mmengine import Config
from mmengine.dataset import BaseDataset
from torch import nn

from mmsalmask.checkpoint import (
    check_matches,
    check_start,
    is_high_pass,
    load_checkpoint,
    warn_if_filter_differs,
)
from mmsalmask.cli import rank_of_launcher
from mmsalmask.config import check_config, check_together, optimizers
from mmsalmask.data import fingerprint
from mmsalmask.engine.models import unwrapped
from mmsalmask.engine.out_of_memory import memory_told
from mmsalmask.engine.ownership import owned
from mmsalmask.engine.paths import check_data_paths, fetch_checkpoints
from mmsalmask.engine.processes import distribute_over_cpus, leave_process_group
from mmsalmask.engine.resume.draws import unseeded
from mmsalmask.engine.resume.runner import ExactRunner
from mmsalmask.engine.resume.safe_checkpoint import run_checkpoints, why_damaged
from mmsalmask.engine.terminal import QuietRunner
from mmsalmask.errors import InputError, Stopped

_AMP = {
    "float16": "mmsalmask.Float16OptimWrapper",
    "bfloat16": "mmsalmask.BFloat16OptimWrapper",
}
_FUSED = ("SGD", "Adam", "AdamW")
_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def set_work_dir(config: Config, work_dir: str | None) -> None:
    """Where logs and checkpoints go: the argument, else the config's, else ``work_dirs/<name>``."""
    if work_dir is not None:
        config.work_dir = work_dir
    elif config.get("work_dir") is None:
        config.work_dir = str(Path("work_dirs") / Path(config.filename).stem)


def use_amp(config: Config, dtype: str) -> None:
    """Train under autocast: ``float16`` with dynamic loss scaling, or ``bfloat16`` without.

    Raises:
        InputError: for a config with another optimizer wrapper.
    """
    wrapper = config.optim_wrapper
    if wrapper.get("type", "OptimWrapper") not in ("OptimWrapper", "AmpOptimWrapper"):
        raise InputError(
            f"--amp replaces OptimWrapper, but the config has {wrapper.type}: set its precision "
            "in the config instead"
        )
    wrapper.pop("dtype", None)
    if dtype == "bfloat16":
        wrapper.pop("loss_scale", None)
    wrapper.type = _AMP[dtype]


def set_resume(config: Config, resume: str) -> None:
    """Resume from a checkpoint file, or with ``auto`` from the newest good one of the run.

    The seed of the run becomes that of the checkpoint, so that order and augmentation of the images
    go on as they were. A damaged checkpoint is named in a warning and passed over.

    Raises:
        InputError: if there is no good one, or the given file is damaged.
    """
    if resume == "auto":
        resume = _newest_good(config)
    elif not Path(resume).is_file():
        raise InputError(f"--resume: checkpoint {resume} does not exist")
    elif reason := why_damaged(resume):
        raise InputError(
            f"--resume: {resume} is damaged, {reason}: --resume without a file finds the newest "
            "good one"
        )
    config.resume, config.load_from = True, str(resume)
    seed = load_checkpoint(resume, lazy=True).get("meta", {}).get("seed")
    if seed is not None:
        config.setdefault("randomness", {})
        if config.randomness.get("seed") not in (None, seed):
            _warn(f"--resume: goes on with seed {seed} of the checkpoint, not with the config's")
        config.randomness.seed = seed


def has_checkpoint(config: Config) -> bool:
    """Whether the work directory holds a checkpoint to resume from, good or not."""
    return bool(run_checkpoints(*_checkpoint_folders(config)))


def refuse_held(config: Config) -> None:
    """Refuse a work directory that holds checkpoints of a run, by an :class:`InputError`."""
    if found := run_checkpoints(*_checkpoint_folders(config)):
        raise InputError(
            f"{config.work_dir} holds a run already, up to {found[0].name}: resume it (--resume; "
            "in Python resume=True), or choose another --work-dir"
        )


def restarted() -> bool:
    """Whether torchrun or Slurm has started this job again, after a failure or a preemption."""
    counts = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    return any(os.environ.get(count, "0") not in ("", "0") for count in counts)


@contextmanager
def own_work_dir(config: Config) -> Iterator[None]:
    """Have the work directory to this run alone while it trains.

    The first of several processes holds it for all.

    Raises:
        InputError: it cannot be written, another run trains there, or it holds the checkpoints of a
            run that this one does not resume.
    """
    _check_work_dir(config)
    if not config.get("resume"):
        refuse_held(config)
    first = rank_of_launcher(config.get("launcher", "none")) == "0"
    with owned(config.work_dir) if first else nullcontext():
        yield


def _checkpoint_folders(config: Config) -> list[Path]:
    """The work directory and, where the checkpoint hook has an ``out_dir``, the folder below it."""
    work = Path(config.work_dir)
    out = ((config.get("default_hooks") or {}).get("checkpoint") or {}).get("out_dir")
    return [work] if out is None else [work, Path(out) / work.name]


def _newest_good(config: Config) -> Path:
    found = run_checkpoints(*_checkpoint_folders(config))
    for path in found:
        reason = why_damaged(path)
        if reason is None:
            return path
        _warn(f"--resume: {path} is passed over, {reason}")
    if found:
        raise InputError(
            f"--resume: all checkpoints in {config.work_dir} are damaged, the newest is {found[0]}"
        )
    raise InputError(
        f"--resume: there is no checkpoint in {config.work_dir}: check --work-dir, give "
        "--resume a file, or start without it"
    )


def _warn(text: str) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"warning: {text}", file=sys.stderr)


def fuse_optimizers(config: Config) -> None:
    """Update all parameters in one kernel where torch's optimizer can and the config is silent.

    Not under mmengine's own loss scaling, which leaves the momentum of a fused SGD to chance.
    """
    wrapper = config.get("optim_wrapper") or {}
    if wrapper.get("type") == "AmpOptimWrapper":
        return
    own = (wrapper.get("paramwise_cfg") or {}).get("mask_net") or {}
    for optimizer in (wrapper.get("optimizer"), own.get("optimizer")):
        silent = optimizer and not (optimizer.get("foreach") or optimizer.get("differentiable"))
        if silent and optimizer.get("type") in _FUSED:
            optimizer.setdefault("fused", True)


def build_runner(config: Config, testing: bool = False, quiet: bool = False) -> ExactRunner:
    """Check everything that can be checked before time is spent, then build the runner.

    Files that a part of the model starts from (``init_cfg``) are read here first: mmengine would
    run code that they hold. A backbone that learned from high-pass filtered images is compared
    with the pipelines, see :func:`mmsalmask.checkpoint.warn_if_filter_differs`.

    Args:
        config: of a run.
        testing: the checkpoint in ``load_from`` will be tested. Data for training need not be
            there, nor the files that the model once started from.
        quiet: the terminal gets what a user reads, see :mod:`mmsalmask.engine.terminal`, and not
            all that goes to the log file.

    Raises:
        InputError: for whatever :func:`mmsalmask.config.check_config` and
            :func:`mmsalmask.engine.paths.check_data_paths` refuse, for a checkpoint that cannot
            be downloaded, for persistent
            workers without workers, for ``AmpOptimWrapper`` without a GPU, for a work directory
            that cannot be written, for a missing, damaged or unsafe file that the model starts
            from, or one of another architecture, for a ``load_from`` whose tensors are not those
            of the model, and for a saliency cache of other images than those of the training data.
    """
    check_config(config)
    check_data_paths(config, _LOADERS[2:] if testing else _LOADERS[:2])
    fetch_checkpoints(config, testing)
    for name in _LOADERS:
        loader = config.get(name) or {}
        if loader.get("persistent_workers") and not loader.get("num_workers"):
            raise InputError(
                f"{name}.persistent_workers needs workers to persist: set {name}.num_workers to at "
                f"least 1, or {name}.persistent_workers to False"
            )
    wrapper = config.get("optim_wrapper") or {}
    if wrapper.get("type") == "AmpOptimWrapper" and not torch.cuda.is_available():
        raise InputError(
            "optim_wrapper.type is AmpOptimWrapper, which needs a GPU, and there is none here: "
            "--amp float16 does the same on any device, --amp bfloat16 is faster on recent CPUs"
        )
    if config.get("launcher", "none") != "none" and not torch.cuda.is_available():
        distribute_over_cpus(config)
    if config.get("fast_step"):
        fuse_optimizers(config)
    _check_work_dir(config)
    check_together(config)
    runner = (QuietRunner if quiet else ExactRunner).from_cfg(config)
    if wrapper.get("type") in _AMP.values() and not torch.cuda.is_available():
        runner.logger.warning(
            "--amp on a CPU: most emulate 16-bit arithmetic and are many times slower than in "
            "float32; compare images_per_second without --amp"
        )
    for name, optimizer in () if testing else optimizers(config):
        if optimizer.get("lr") == 0:
            runner.logger.warning(f"{name}.lr is 0: nothing will be learned")
    model = unwrapped(runner.model)
    filtered = {name: is_high_pass(config, name) for name in _LOADERS if config.get(name)}
    for file, modules in _starting_files(model).items():
        if testing and not Path(file).is_file():
            continue
        start = load_checkpoint(file)
        warn_if_filter_differs(start, file, filtered)
        if modules:
            check_start(modules, start, file)
    if config.get("load_from"):
        state = load_checkpoint(config.load_from, lazy=True)
        warn_if_filter_differs(state, config.load_from, filtered)
        check_matches(model, state.get("state_dict", state), config.load_from)
    masker = getattr(getattr(model, "data_preprocessor", None), "masker", None)
    localizer = getattr(masker, "localizer", None)
    if localizer is not None and localizer.needs == "crops" and not testing:
        # The loop, and with it the dataset, is built here instead of when training starts.
        dataset = runner.train_loop.dataloader.dataset
        localizer.check_source(dataset=fingerprint(unseeded(dataset)))
    return runner


def _check_work_dir(config: Config) -> None:
    """Refuse a work directory that cannot be made or written, before anything is."""
    if config.get("work_dir") is None:
        return
    work, reason = Path(config.work_dir), "no permission, or a disk that is read-only"
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror
    if not os.access(work, os.W_OK | os.X_OK):
        raise InputError(f"work directory {work} cannot be written ({reason}): choose --work-dir")


def train(runner: ExactRunner) -> None:
    """Train as the runner's config says.

    Raises:
        InputError: no image is left of a dataset, where mmengine only says that it has nothing to
            concatenate.
        Stopped: a signal came; everything is saved.
    """
    try:
        with memory_told(runner):
            runner.train()
    except Stopped:
        leave_process_group()
        raise
    except ValueError as error:
        dataset = _dataset_being_loaded(error)
        if dataset is None or dataset.data_list:
            raise
        raise InputError(
            f"{dataset.ann_file} names no image that shows any of the "
            f"{len(dataset.metainfo['classes'])} classes: set dataset.metainfo.classes to the "
            "names in the annotations"
        ) from error


def _dataset_being_loaded(error: BaseException) -> BaseDataset | None:
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is BaseDataset._serialize_data.__code__:
            return trace.tb_frame.f_locals["self"]
        trace = trace.tb_next
    return None


def _starting_files(model: nn.Module) -> dict[str, list[nn.Module]]:
    """The local files that parts of a model start from, and those parts.

    What lies at an address is not ours. A start with a ``prefix`` takes what it wants out of a
    file, and a module with an initialisation of this project checks its file itself.
    """
    files = defaultdict(list)
    for module in model.modules():
        starts = getattr(module, "init_cfg", None) or []
        for start in starts if isinstance(starts, (list, tuple)) else [starts]:
            if start.get("type") != "Pretrained" or "://" in str(start.get("checkpoint")):
                continue
            if not start.get("checkpoint"):
                raise InputError(
                    f"init_cfg of {type(module).__name__} is Pretrained, but names no checkpoint: "
                    "give the file to start from, init_cfg.checkpoint, or set init_cfg=None"
                )
            modules = files[str(start["checkpoint"])]
            checks_itself = type(module).init_weights.__module__.startswith("mmsalmask.")
            if not checks_itself and start.get("prefix") is None:
                modules.append(module)
    return dict(sorted(files.items()))
