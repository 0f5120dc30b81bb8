"""Trainings that take long: what they hold after an hour, and what low precision does to them."""

import contextlib
import json
import math
import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from system.processes import run_through, start, wait, watch_training
from torch import nn

from mmsalmask.checkpoint import load_checkpoint
from mmsalmask.cli import STOPPED_STATUS
from mmsalmask.config import load_config
from mmsalmask.data import ImageFolder
from mmsalmask.data.demo import draw_demo_set
from mmsalmask.engine.resume.safe_checkpoint import run_checkpoints

ROOT = Path(__file__).resolve().parents[2]
_DEMO = ROOT / "configs" / "demo" / "mocov2-salmask-mean_resnet18-w16_drawn.py"


def endure(minutes: float, folder: Path) -> dict:
    """Train the demo config on drawn images for so long, and watch what it holds.

    Memory is that of the process and of its workers, what they share counted once; open files are
    those of the process. Both are fitted by a straight line over the second half of the time, when
    caches and pools are full, through the medians of thirty stretches of it: workers of an
    evaluation, which come and go, would sway a line through every sample. Throughput is the median
    over log lines, the last tenth's over the first's.
    """
    data, work = folder / "data", folder / "endurance"
    draw_demo_set(data)
    options = [f"data_root={data}", "train_cfg.max_epochs=100000"]
    trains, text, samples = watch_training(work), work.with_suffix(".txt"), []
    child = start(_DEMO, work, "--cfg-options", *options)
    status = wait(child, 600, trains)
    yardstick = _yardstick()  # not before the fork: what torch starts would be lost in the child
    begin = time.monotonic()
    while status is None and time.monotonic() < begin + 60 * minutes:
        group = _group(child)
        files = len(os.listdir(f"/proc/{child}/fd"))
        memory = sum(map(_resident, group))
        samples.append((time.monotonic() - begin, memory, files, yardstick()))
        status = wait(child, 2)
    if status is not None:
        raise SystemExit(f"{work} ended with status {status}: see {text}")
    os.kill(child, signal.SIGTERM)
    if wait(child, 120) != STOPPED_STATUS:
        raise SystemExit(f"{work} did not save and stop: see {text}")
    (log,) = work.glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    trained = [line for line in lines if "loss" in line]
    throughput = _last_over_first([1 / line["time"] for line in trained])
    speed = _last_over_first([1 / seconds for *_, seconds in samples])
    late = np.array(samples[len(samples) // 2 :])
    stretches = np.array_split(late, min(30, len(late)))
    seconds_passed, memory, files, _ = np.array([np.median(s, axis=0) for s in stretches]).T
    hours = seconds_passed / 3600
    return {
        "minutes": minutes,
        "iterations": trained[-1]["step"],
        "memory_mb": samples[-1][1],
        "memory_mb_per_hour": float(np.polyfit(hours, memory, 1)[0]),
        "open_files": samples[-1][2],
        "open_files_per_hour": float(np.polyfit(hours, files, 1)[0]),
        "throughput_last_over_first": throughput,
        "machine_last_over_first": speed,
    }


def _yardstick() -> Callable[[], float]:
    """A fixed piece of work for one thread, a step of a small ConvNet; returns its seconds."""
    torch.set_num_threads(1)
    layers = [nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    net, images = nn.Sequential(*layers * 4), torch.randn(16, 32, 24, 24)

    def work() -> float:
        begin = time.perf_counter()
        net(images).sum().backward()
        return time.perf_counter() - begin

    for _ in range(5):
        work()
    return work


def _last_over_first(values: Sequence[float]) -> float:
    """The median of the last tenth over that of the first."""
    tenth = max(1, len(values) // 10)
    return float(np.median(values[-tenth:]) / np.median(values[:tenth]))


def _group(leader: int) -> list[int]:
    """A process and its workers."""
    found = []
    for process in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process) == leader:
                found.append(process)
    return found


def _resident(process: int) -> float:
    """Memory of a process in MB; what it shares is divided by the number of its holders."""
    try:
        rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:  # it has ended
        return 0.0
    return int(re.search(r"^Pss: +(\d+) kB", rollup, re.MULTILINE)[1]) / 1024


def train_in(dtype: str, steps: int, batch: int | None, folder: Path) -> dict:
    """Train the demo config under autocast for at least so many steps, to the end of an epoch.

    ``batch`` makes the config's own smaller, for CPUs that only imitate the dtype.

    Counted are the steps that ``NonFiniteHook`` describes in a file each; all are tolerated. Those
    that the loss scaling of float16 skips of its own accord are none of these.
    """
    data, work = folder / "data", folder / dtype
    draw_demo_set(data)
    options = {"data_root": str(data)}
    if batch is not None:
        options["train_dataloader.batch_size"] = batch
    config = load_config(str(_DEMO), options)
    images = len(ImageFolder(str(data / "train")))
    epochs = math.ceil(steps / (images // config.train_dataloader.batch_size))
    guard = [hook.type for hook in config.custom_hooks].index("mmsalmask.NonFiniteHook")
    options["train_cfg.max_epochs"] = epochs
    options[f"custom_hooks.{guard}.limit"] = 10 * steps
    words = [f"{key}={value}" for key, value in options.items()]
    run_through(_DEMO, work, "--amp", dtype, "--cfg-options", *words, seconds=math.inf)
    checkpoint = load_checkpoint(run_checkpoints(work)[0])
    losses = np.array(checkpoint["message_hub"]["log_scalars"]["train/loss"]._log_history)
    described = {path.name.split("_")[1] for path in work.glob("nonfinite/iter_*.json")}
    scaler = checkpoint["optimizer"].get("loss_scaler")
    return {
        "dtype": dtype,
        "batch": config.train_dataloader.batch_size,
        "steps": len(losses),
        "not_finite": len(described),
        "loss_first": float(losses[:50].mean()),
        "loss_last": float(losses[-50:].mean()),
        "loss_scale": None if scaler is None else scaler["scale"],
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
    }
