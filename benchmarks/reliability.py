"""What a run survives: kills at random moments, which leave no trace in its result, and hours.

    python benchmarks/reliability.py kills [--kills 20] [--seed 0]
    python benchmarks/reliability.py processes
    python benchmarks/reliability.py files
    python benchmarks/reliability.py endurance [--minutes 60]
    python benchmarks/reliability.py precision --dtype bfloat16 [--steps 2000] [--batch 8]

Each part writes its figures into benchmarks/results/reliability.json, beside those of the other.

*kills* trains small nets in real processes, sends them SIGKILL at random moments (some of them in
the middle of a save or of an evaluation) and once SIGTERM or SIGINT, resumes them with
``tools/train.py --resume`` until they are through, and compares the last checkpoint, the curves and
the names of the files with those of a run that was left in peace, bit by bit.
"""

import argparse
import contextlib
import importlib
import json
import math
import os
import random
import re
import runpy
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from mmsalmask.checkpoint import load_checkpoint, revive
from mmsalmask.cli import STOPPED_STATUS
from mmsalmask.config import load_config
from mmsalmask.data import ImageFolder
from mmsalmask.data.demo import draw_demo_set
from mmsalmask.engine.resume.safe_checkpoint import run_checkpoints
from mmsalmask.provenance import provenance, write_result

# Imported here, once for all processes.
for _name in ("mmpretrain.engine", "mmpretrain.visualization", "torch.utils.tensorboard"):
    importlib.import_module(_name)

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "reliability.json"

# --------------------------------------------------------------------------------------------------
# Small runs
# --------------------------------------------------------------------------------------------------

# Views of the workers, whose random numbers a resumed run has to repeat as well.
_SMALL = """
_base_ = ['{root}/configs/demo/{recipe}.py', '{root}/configs/_base_/datasets/mocov2_views.py']
model = dict({model}
    data_preprocessor=dict(augment=None),
    backbone=dict(base_channels=8, stem_channels=8),
    neck=dict(in_channels=64, hid_channels=32))
train_dataloader = dict(
    batch_size=4, num_workers={workers}, persistent_workers={persistent},
    dataset=dict(
        data_root='{images}/0',
        pipeline=[
            dict(type='mmsalmask.LoadImage'),
            dict(
                type='MultiView',
                num_views=2,
                transforms=[[
                    dict(type='RandomResizedCrop', scale=32, crop_ratio_range=(0.2, 1.)),
                    *_base_.view_pipeline[1:]]]),
            dict(type='PackInputs')]))
{schedule}
"""

_CLASSIFIER = """
_base_ = '{root}/configs/_base_/default_runtime.py'
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        type='ClsDataPreprocessor', num_classes=2, mean=[127.5] * 3, std=[64.] * 3, to_rgb=True),
    backbone=dict(type='ResNet', depth=18, base_channels=8, stem_channels=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=64, topk=(1, )))
images = dict(type='mmsalmask.ImageFolder', data_root='{images}', with_label=True)
loading = dict(type='mmsalmask.LoadImage')
train_dataloader = dict(
    batch_size=4, num_workers={workers}, persistent_workers={persistent},
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(**images, pipeline=[
        loading,
        dict(type='RandomResizedCrop', scale=32),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackInputs')]))
val_dataloader = dict(
    batch_size=4, num_workers={workers}, persistent_workers={persistent},
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(**images, pipeline=[
        loading, dict(type='Resize', scale=(32, 32)), dict(type='PackInputs')]))
val_evaluator = dict(type='Accuracy', topk=(1, ))
val_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
param_scheduler = [dict(type='MultiStepLR', milestones=[1, 2], by_epoch=True)]
{schedule}
default_hooks['checkpoint'].update(save_best='auto')
custom_hooks = []
"""

_BY_EPOCH = """
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=4)
default_hooks = dict(
    logger=dict(interval=3), checkpoint=dict(interval=1, max_keep_ckpts=2))
"""
_BY_ITERATION = """
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=4)
default_hooks = dict(
    logger=dict(interval=3), checkpoint=dict(interval=4, by_epoch=False, max_keep_ckpts=2))
"""
# One long "epoch"; a finite sampler is started again and again, an infinite one is not.
_ITERATIONS = """
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=24)
train_dataloader.update(sampler=dict(type='{sampler}', shuffle=True))
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=False, T_max=24)]
default_hooks = dict(
    logger=dict(interval=3), checkpoint=dict(interval=5, by_epoch=False, max_keep_ckpts=2))
log_processor = dict(by_epoch=False)
"""


class Case(NamedTuple):
    """A small run: what it trains, with how many workers, and how it saves."""

    method: str
    workers: int
    saving: str
    text: str


_RECIPES = {
    "MaskedMoCo": ("mocov2-salmask-highpass_resnet18_demo", "queue_len=32,"),
    "MaskedSimCLR": ("simclr-salmask-mean_resnet18_demo", ""),
    "ADIOS": ("adios-s-mocov2_resnet18_demo", "queue_len=32, mask_net=dict(size=32, slots=2),"),
}
_SCHEDULES = {
    "by epoch": _BY_EPOCH,
    "by iteration": _BY_ITERATION,
    "iterations only": _ITERATIONS.replace("{sampler}", "DefaultSampler"),
    "infinite sampler": _ITERATIONS.replace("{sampler}", "InfiniteSampler"),
}
_CHOSEN = [
    ("MaskedMoCo", 2, "by epoch"),
    ("MaskedSimCLR", 0, "infinite sampler"),
    ("ADIOS", 2, "by iteration"),
    ("classifier", 0, "by epoch"),
    ("MaskedMoCo", 0, "by iteration"),
    ("MaskedSimCLR", 2, "by iteration"),
    ("ADIOS", 0, "iterations only"),
    ("classifier", 2, "by iteration"),
]


def cases(images: Path) -> list[Case]:
    """All small runs, on these images."""
    made = []
    for method, workers, saving in _CHOSEN:
        recipe, model = _RECIPES.get(method, ("", ""))
        text = (_SMALL if recipe else _CLASSIFIER).format(
            root=ROOT,
            recipe=recipe,
            model=model,
            images=images,
            workers=workers,
            persistent=workers > 0,
            schedule=_SCHEDULES[saving],
        )
        made.append(Case(method, workers, saving, text))
    return made


def draw_images(folder: Path, number: int = 22) -> None:
    """Two classes of small noise pictures, bright and dark."""
    generator = np.random.default_rng(0)
    for label in range(2):
        (folder / str(label)).mkdir(parents=True)
        for i in range(number):
            pixels = generator.integers(80 * label, 80 * label + 176, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / str(label) / f"{i}.png")


# --------------------------------------------------------------------------------------------------
# Processes
# --------------------------------------------------------------------------------------------------


def start(config: Path, work: Path, *words: str, rank: str = "", **environment: str) -> int:
    """Fork a process that is ``python tools/train.py CONFIG --work-dir WORK WORDS``; its id.

    Forked, because importing everything takes longer than such a run. What it prints is in
    ``<work><rank>.txt``.
    """
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        os.environ.update(environment)
        text = work.with_name(f"{work.name}{rank}.txt")
        output = os.open(text, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(output, stream)
        tool = ROOT / "tools" / "train.py"
        sys.argv = [str(tool), str(config), "--verbose", "--work-dir", str(work), *words]
        runpy.run_path(str(tool), run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def start_ranks(config: Path, work: Path, number: int, *words: str) -> list[int]:
    """So many processes of one run, joined by gloo, as torchrun would start them; their ids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(number):
        environment = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=number, LOCAL_WORLD_SIZE=number)
        environment.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        environment = {name: str(value) for name, value in environment.items()}
        words_of_all = [*words, "--launcher", "pytorch"]
        name = f"_{rank}" if rank else ""
        children.append(start(config, work, *words_of_all, rank=name, **environment))
    return children


def wait(child: int, seconds: float, until: Callable[[], bool] = lambda: False) -> int | None:
    """Its exit status, or ``None`` if it still runs after so long, or when ``until`` comes true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not until():
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    return None


def kill(child: int) -> None:
    """SIGKILL; the process can do nothing about it."""
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def run_through(config: Path, work: Path, *words: str, seconds: float = 600) -> None:
    """Run to the end, which has to be a good one and come in so many seconds."""
    _expect_good_end(work, wait(start(config, work, *words), seconds))


def _expect_good_end(work: Path, status: int | None) -> None:
    if status != 0:
        tail = work.with_suffix(".txt").read_text()[-3000:]
        raise SystemExit(f"{work} ended with status {status}:\n{tail}")


def _resume_or_begin(work: Path) -> list[str]:
    """The words to resume with; a run that was killed before its first checkpoint begins anew."""
    if run_checkpoints(work):
        return ["--resume"]
    shutil.rmtree(work, ignore_errors=True)
    return []


def _watch_training(work: Path) -> Callable[[], bool]:
    """Tells whether the run that is started next has logged an iteration."""
    text = work.with_suffix(".txt")
    seen = text.stat().st_size if text.exists() else 0
    return lambda: text.exists() and b"(train)" in text.read_bytes()[seen:]


def saving(work: Path) -> bool:
    """Whether a checkpoint is being written: its temporary file is there, not yet renamed."""
    return any(work.glob(".*.pth.*"))


def evaluating(work: Path) -> bool:
    """Whether the last line that was logged is one inside of an evaluation."""
    text = work.with_suffix(".txt")
    last = text.read_text().rstrip().rpartition("\n")[2] if text.exists() else ""
    return "(val)" in last and "accuracy" not in last


# --------------------------------------------------------------------------------------------------
# Comparing
# --------------------------------------------------------------------------------------------------

# What tells the time, or where the run lies.
_TIMES = ("time", "data_time", "images_per_second", "eta", "memory")
_PLACES = ("cfg", "experiment_name", "last_ckpt", "best_ckpt", "stop_checkpoint", "logs")


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


# --------------------------------------------------------------------------------------------------
# The two parts
# --------------------------------------------------------------------------------------------------


def stop(config: Path, work: Path, number: signal.Signals) -> dict | None:
    """Send a signal to all processes of a run that trains; it has to save and exit with 75.

    Returns:
        The signal's name, and the seconds it took; ``None`` for a run that was through before.
    """
    trains = _watch_training(work)
    child = start(config, work, *_resume_or_begin(work))
    status = wait(child, 600, trains)
    begin = time.monotonic()
    if status is None:
        os.killpg(child, number)
        status = wait(child, 60)
    seconds = time.monotonic() - begin
    if status == 0:
        return None
    if status != STOPPED_STATUS:
        raise SystemExit(f"{work} ended with status {status} after {number.name}")
    return {"signal": number.name, "seconds": seconds}


def torment(case: Case, config: Path, kills: int, number: signal.Signals, draw: random.Random):
    """Kill a run so many times and stop it once, resume it to the end, and compare.

    Every other kill comes at a random moment, those between in the middle of a save or of an
    evaluation; all while it trains and after a first checkpoint, for without one nothing is
    resumed. A run that was through before its moment came is compared, and begun anew.
    """
    config.write_text(case.text)
    whole, work = (config.with_name(f"{config.stem}_{name}") for name in ("whole", "killed"))
    span = _seconds_from_first_checkpoint(config, whole)
    moments, stopped, different = [], None, []

    def finish() -> None:
        different.extend(compare(work, whole))
        shutil.rmtree(work)

    inside = evaluating if case.method == "classifier" else saving
    while len(moments) < kills:
        trains = _watch_training(work)
        child = start(config, work, *_resume_or_begin(work))
        # A resumed run first clears away what a killed save has left.
        status = wait(child, 600, trains)
        if status is None:
            status = wait(child, 600, lambda: run_checkpoints(work))
        if status is None and len(moments) % 2:
            status = wait(child, 600, lambda: inside(work))
        elif status is None:
            status = wait(child, draw.random() * span)
        if status is None:
            kill(child)
            during = "a save" if saving(work) else "an evaluation" if evaluating(work) else "else"
            newest = run_checkpoints(work)
            moments.append({"during": during, "newest": newest[0].name if newest else None})
        elif status:
            raise SystemExit(f"{work} ended with status {status}: see {work}.txt")
        else:
            finish()
    while stopped is None:
        stopped = stop(config, work, number)
        if stopped is None:
            finish()
    run_through(config, work, *_resume_or_begin(work))
    finish()
    return {
        "method": case.method,
        "workers": case.workers,
        "saving": case.saving,
        "kills": moments,
        "stop": stopped,
        "different": different,
    }


def _seconds_from_first_checkpoint(config: Path, work: Path) -> float:
    """Run to the end; how long it went on after its first checkpoint."""
    child = start(config, work)
    status, begin = wait(child, 600, lambda: run_checkpoints(work)), time.monotonic()
    _expect_good_end(work, wait(child, 600) if status is None else status)
    return time.monotonic() - begin


def kill_at_random(kills: int, seed: int, folder: Path) -> dict:
    """Spread the kills over the cases."""
    torch.set_num_threads(1)
    draw = random.Random(seed)
    draw_images(folder / "images")
    listed = cases(folder / "images")
    rows = []
    for i, case in enumerate(listed):
        share = kills // len(listed) + (i < kills % len(listed))
        number = (signal.SIGTERM, signal.SIGINT)[i % 2]
        rows.append(torment(case, folder / f"case_{i}.py", share, number, draw))
        different = rows[-1]["different"]
        told = f"DIFFERENT: {different[:10]}" if different else "the same"
        print(f"{' '.join(map(str, case[:3]))}: {share} kills, {told}", flush=True)
    return {"seed": seed, "cases": rows}


def several_processes(folder: Path) -> dict:
    """Stop two processes by a signal to one, resume on two and on one, and let one die."""
    torch.set_num_threads(1)
    draw_images(folder / "images")
    case = cases(folder / "images")[4]  # MaskedMoCo
    config = folder / "two.py"
    config.write_text(case.text)
    whole, work = folder / "two_whole", folder / "two_stopped"

    def end(run: Path, children: list[int], expected: set[int] | None = None) -> float:
        begin = time.monotonic()
        statuses = {wait(child, 120) for child in children}
        if statuses != (expected or {0}):
            raise SystemExit(f"{run} ended with {statuses}: see {run}.txt")
        return time.monotonic() - begin

    def trains(run: Path) -> bool:
        text = run.with_suffix(".txt")
        return text.exists() and "Epoch(train)" in text.read_text()

    end(whole, start_ranks(config, whole, 2))
    children = start_ranks(config, work, 2)
    wait(children[0], 600, lambda: trains(work))
    os.kill(children[1], signal.SIGTERM)
    seconds = end(work, children, {STOPPED_STATUS})
    alone = folder / "two_alone"
    shutil.copytree(work, alone)
    end(work, start_ranks(config, work, 2, "--resume"))
    options = ["--cfg-options", "train_dataloader.batch_size=8"]
    end(alone, [start(config, alone, "--resume", *options)])
    told = re.findall(r"resuming on other batches: (.*)", alone.with_suffix(".txt").read_text())
    dying = folder / "two_dying"
    children = start_ranks(config, dying, 2)
    wait(children[0], 600, lambda: trains(dying))
    kill(children[1])
    found = end(dying, children[:1], {1})
    return {
        "stop_seconds": seconds,
        "different": compare(work, whole),
        "on_one_process": told[0],
        "seconds_to_end_after_a_death": found,
        "cause": dying.with_suffix(".txt").read_text().strip().splitlines()[-1],
    }


# --------------------------------------------------------------------------------------------------
# Bad files
# --------------------------------------------------------------------------------------------------


def make_bad_files(folder: Path) -> dict[str, Path]:
    """One file of each kind that has broken somebody's training, by what is strange about it."""
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    photo, made = Image.fromarray(pixels), {}

    def save(kind: str, image: Image.Image, name: str, **options: Any) -> None:
        made[kind] = folder / name
        image.save(made[kind], **options)

    save("plain", photo, "plain.jpg")
    save("CMYK", photo.convert("CMYK"), "cmyk.jpg")
    save("16-bit grey", Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "deep.png")
    save("palette with transparency", photo.convert("P"), "palette.png", transparency=0)
    save("animated", photo, "moving.gif", save_all=True, append_images=[photo.rotate(90)])
    turned = Image.Exif()
    turned[0x0112] = 6
    save("rotated by EXIF", photo, "turned.jpg", exif=turned)
    save("1 × 1 pixels", photo.crop((0, 0, 1, 1)), "dot.png")
    save("20,000 × 10 pixels", photo.resize((20000, 10)), "line.png")
    save("decompression bomb", Image.new("1", (15000, 15000)), "bomb.png")
    save("Unicode name", photo, "фото 写真 \N{COMBINING ACUTE ACCENT}é.png")
    save("wrong extension", photo, "really_a_png.jpg", format="PNG")
    whole = made["plain"].read_bytes()
    for kind, name, content in (
        ("truncated", "cut.jpg", whole[: len(whole) // 2]),
        ("header only", "header.jpg", whole[:20]),
        ("empty", "empty.jpg", b""),
        ("text", "text.jpg", b"<html>404 Not Found</html>"),
        ("random bytes", "noise.png", pixels.tobytes()),
    ):
        made[kind] = folder / name
        made[kind].write_bytes(content)
    made["unreadable"] = folder / "secret.jpg"
    made["unreadable"].write_bytes(whole)
    made["unreadable"].chmod(0)
    made["link to nowhere"] = folder / "gone.jpg"
    made["link to nowhere"].symlink_to(folder / "never_was.jpg")
    made["link to itself"] = folder / "itself.jpg"
    made["link to itself"].symlink_to(made["link to itself"])
    made["loop of folders"] = folder / "loop"
    made["loop of folders"].symlink_to(folder)
    return made


def train_on_bad_files(folder: Path) -> dict:
    """Train on such a folder, tolerating all of them; what became of each."""
    torch.set_num_threads(1)
    draw_images(folder / "images", 6)
    made = make_bad_files(folder / "images" / "0" / "bad")
    config, work = folder / "bad.py", folder / "bad"
    config.write_text(cases(folder / "images")[0].text)
    run_through(config, work, "--cfg-options", "custom_hooks.2.limit=1.0")
    text = work.with_suffix(".txt").read_text()
    found = {}
    for kind, path in made.items():
        reason = re.search(rf"broken image {re.escape(str(path))}: (.*)", text)
        found[kind] = f"skipped: {reason[1]}" if reason else "decoded"
    found["loop of folders"] = "each folder searched once"
    if os.geteuid() == 0 and found["unreadable"] == "decoded":
        found["unreadable"] = "decoded, as permissions do not bind root"
    return {"files": found}


# --------------------------------------------------------------------------------------------------
# Endurance
# --------------------------------------------------------------------------------------------------


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
    trains, text, samples = _watch_training(work), work.with_suffix(".txt"), []
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


# --------------------------------------------------------------------------------------------------
# Low precision
# --------------------------------------------------------------------------------------------------


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


def _write(part: str, figures: dict, path: Path) -> None:
    result = json.loads(path.read_text()) if path.exists() else {}
    result[part] = {**provenance(), **figures}
    write_result(path, result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["kills", "processes", "files", "endurance", "precision"])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--dtype", choices=["float16", "bfloat16"], default="bfloat16")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, help="images of a step (the demo config's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the runs go (a temporary folder)")
    parser.add_argument("--json", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = arguments.folder
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        if arguments.part == "kills":
            figures = kill_at_random(arguments.kills, arguments.seed, folder)
            _write("kills", figures, arguments.json)
            if any(row["different"] for row in figures["cases"]):
                sys.exit("a run ended differently after it was killed")
        if arguments.part == "endurance":
            _write("endurance", endure(arguments.minutes, folder), arguments.json)
        if arguments.part == "precision":
            figures = train_in(arguments.dtype, arguments.steps, arguments.batch, folder)
            _write(f"precision {arguments.dtype}", figures, arguments.json)
        if arguments.part == "files":
            _write("files", train_on_bad_files(folder), arguments.json)
        if arguments.part == "processes":
            _write("processes", several_processes(folder), arguments.json)


if __name__ == "__main__":
    main()
