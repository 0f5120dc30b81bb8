"""Whether two runs ended alike, to the last bit."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmsalmask.checkpoint import load_checkpoint, revive
from mmsalmask.engine.resume.safe_checkpoint import run_checkpoints

# What tells the time, or where the run lies.
_TIMES = ("time", "data_time", "images_per_second", "eta", "memory")
_PLACES = ("cfg", "experiment_name", "last_ckpt", "best_ckpt", "stop_checkpoints")
_PLACES += ("logs", "log_folder")


def differences(one: Any, other: Any, name: str = "") -> Iterator[str]:
    """Names of what is not the same to the last bit in two nests of containers and tensors."""
    last = name.rpartition("/")[2].rpartition(".")[2]
    if last in (*_TIMES, *_PLACES):
        return
    if type(one) is not type(other):
        yield f"{name}: {type(one).__name__} and {type(other).__name__}"
    elif isinstance(one, dict):
        for key in dict.fromkeys([*one, *other]):
            if key in one and key in other:
                yield from differences(one[key], other[key], f"{name}.{key}")
            elif str(key).rpartition("/")[2] not in (*_TIMES, *_PLACES):
                yield f"{name}.{key}: only in one of them"
    elif isinstance(one, (list, tuple)):
        if len(one) != len(other):
            yield f"{name}: {len(one)} and {len(other)} parts"
        for i, (left, right) in enumerate(zip(one, other, strict=False)):
            yield from differences(left, right, f"{name}.{i}")
    elif hasattr(one, "__dict__") and not isinstance(one, torch.Tensor):
        yield from differences(vars(one), vars(other), name)
    elif not _same(one, other):
        yield name


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor | np.ndarray):
        alike = one.dtype == other.dtype and one.shape == other.shape
        return alike and _bytes(one) == _bytes(other)
    return one == other or (one != one and other != other)


def _bytes(values: torch.Tensor | np.ndarray) -> bytes:
    if isinstance(values, torch.Tensor):
        values = values.contiguous().reshape(-1).view(torch.uint8).numpy()
    return values.tobytes()


def curves(work: Path) -> list[tuple]:
    """All that TensorBoard and the JSON lines hold, in the order of writing, without times."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    found = []
    for file in sorted(work.glob("*/vis_data/*tfevents*")):
        for event in LegacyEventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.tag.rpartition("/")[2] not in (*_TIMES, "text_summary"):
                    found.append(("event", value.tag, event.step, value.simple_value))
    for file in sorted(work.glob("*/vis_data/scalars.json")):
        for line in file.read_text().splitlines():
            values = json.loads(line)
            found.append(("line", *((k, v) for k, v in values.items() if k not in _TIMES)))
    return found


def compare(work: Path, reference: Path) -> list[str]:
    """Where a run ended differently from another; nothing, if it did not."""
    found = []
    names = [sorted(path.name for path in run.glob("*.pth")) for run in (work, reference)]
    if names[0] != names[1]:
        found.append(f"files: {names[0]} and {names[1]}")
    ends = []
    for run in (work, reference):
        newest = run_checkpoints(run)[0]
        checkpoint = revive(load_checkpoint(newest))
        checkpoint["meta"].pop("time")
        ends.append(checkpoint)
    found += differences(*ends)
    logged = [curves(run) for run in (work, reference)]
    if repr(logged[0]) != repr(logged[1]):
        kinds = [[entry[:3] for entry in run] for run in logged]
        what = "steps" if kinds[0] != kinds[1] else "values"
        found.append(f"{what} of the curves ({len(logged[0])} and {len(logged[1])} entries)")
    return found
