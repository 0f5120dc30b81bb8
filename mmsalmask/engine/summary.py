"""A training in ten lines: what trains, on how many images, where, with what."""

import os
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop
from torch import nn
from torch.utils.data import Dataset

from mmsalmask.data.nesting import base_datasets
from mmsalmask.engine.autocast import BFloat16OptimWrapper
from mmsalmask.engine.models import unwrapped
from mmsalmask.errors import some_names
from mmsalmask.visualization.gallery import describe

COLUMNS = 100


def header(runner) -> list[str]:
    """At most ten lines on a run: what trains, on how many images, where, with what."""
    model = unwrapped(runner.model)
    name = Path(runner.cfg.filename or runner.experiment_name).stem
    log = Path(runner.log_dir) / f"{runner.timestamp}.log"
    masker = getattr(getattr(model, "data_preprocessor", None), "masker", None)
    rows = {
        "training": name,
        "method": _method(model),
        "masks": describe(masker).replace("   ·   ", ", ") if masker is not None else None,
        "images": _images(runner.train_dataloader.dataset),
        "schedule": f"{_steps(runner)}; {'; '.join(_optimizers(runner.optim_wrapper))}",
        "device": _device(model, runner.optim_wrapper),
        "start": _start(runner),
        "work dir": short(runner.work_dir),
        "log": str(log.relative_to(runner.work_dir)),
    }
    lines = "\n".join(f"{key:<9} {value}" for key, value in rows.items() if value)
    return fold(lines, " " * 10).splitlines()


def _method(model: nn.Module) -> str:
    parts, backbone = [type(model).__name__], getattr(model, "backbone", None)
    if backbone is not None:
        depth = getattr(backbone, "depth", None)
        parts.append(type(backbone).__name__ + (f"-{depth}" if depth else ""))
    millions = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    return f"{', '.join(parts)}, {millions:.2f} million trained parameters"


def _images(dataset: Dataset) -> str:
    count = f"{len(dataset):,}" if hasattr(dataset, "__len__") else "a stream"
    folders = list(dict.fromkeys(_folders(dataset)))
    return f"{count} of {some_names(folders, 2)}" if folders else count


def _folders(dataset: Dataset) -> Iterator[str]:
    """Where the images lie, of each dataset that is no wrapper of others."""
    roots = (getattr(part, "data_root", None) for part in base_datasets(dataset))
    return (short(root) for root in roots if root)


def images_per_step(runner) -> int:
    """Images that all processes together take per iteration."""
    return runner.train_dataloader.batch_sampler.batch_size * runner.world_size


def _steps(runner) -> str:
    each = str(images_per_step(runner) // runner.world_size)
    each = each if runner.world_size == 1 else f"{runner.world_size} × {each}"
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        number = len(runner.train_dataloader)
        steps = f"{runner.max_epochs} epochs of {number:,} iteration{'s' * (number > 1)}"
    else:
        steps = f"{runner.max_iters:,} iterations"
    return f"{steps} of {each} images"


def _optimizers(wrapper: OptimWrapper | OptimWrapperDict) -> Iterable[str]:
    named = wrapper.items() if isinstance(wrapper, OptimWrapperDict) else [("", wrapper)]
    for name, one in named:
        group = one.optimizer.param_groups[0]
        # A warm-up has already lowered the other.
        lr = group.get("initial_lr", group["lr"])
        yield f"{name} {type(one.optimizer).__name__}, lr {lr:g}".strip()


def _device(model: nn.Module, wrapper: OptimWrapper | OptimWrapperDict) -> str:
    device = next(model.parameters()).device
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        name = f"{device}, {threads} thread{'s' * (threads > 1)}"
    one = next(iter(wrapper.values())) if isinstance(wrapper, OptimWrapperDict) else wrapper
    precision = torch.float32
    if isinstance(one, BFloat16OptimWrapper):
        precision = torch.bfloat16
    elif isinstance(one, AmpOptimWrapper):
        precision = one.cast_dtype or torch.float16
    return f"{name}, {str(precision).removeprefix('torch.')}"


def _start(runner) -> str | None:
    """Where the weights come from, if they are not random."""
    if runner._load_from:
        return f"{'resumes' if runner._resume else 'weights of'} {short(runner._load_from)}"
    start = (runner.cfg.get("model", {}).get("backbone") or {}).get("init_cfg")
    if isinstance(start, dict) and start.get("checkpoint"):
        return f"backbone of {short(start['checkpoint'])}"
    return None


def fold(text: str, indent: str = "    ") -> str:
    """Break lines of more than 100 columns at spaces, unless a path fills one by itself."""
    options = dict(subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    lines = []
    for line in text.splitlines():
        longest = max(map(len, line.split()), default=0)
        whole = longest == 0 or longest > COLUMNS - 10
        lines += [line] if whole else textwrap.wrap(line, COLUMNS, **options)
    return "\n".join(lines)


def short(path: str | Path) -> str:
    """Relative to where the user is, if it lies below."""
    absolute = os.path.abspath(path)
    return os.path.relpath(absolute) if absolute.startswith(os.getcwd() + os.sep) else str(path)
