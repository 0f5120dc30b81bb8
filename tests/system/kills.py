"""Kills and stops at random moments, which must leave no trace in the result.

Small nets are trained in real processes, get SIGKILL at random moments (some of them in the middle
of a save or of an evaluation) and once SIGTERM or SIGINT, and are resumed by ``tools/train.py
--resume`` until they are through. The last checkpoint, the curves and the names of the files are
compared with those of a run that was left in peace.
"""

import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import torch
from system.comparing import compare
from system.processes import (
    evaluating,
    expect_good_end,
    kill,
    resume_or_begin,
    run_through,
    saving,
    start,
    start_ranks,
    wait,
    watch_training,
)
from system.small_runs import Case, cases, draw_images

from mmsalmask.cli import STOPPED_STATUS
from mmsalmask.engine.resume.safe_checkpoint import run_checkpoints


def stop(config: Path, work: Path, number: signal.Signals) -> dict | None:
    """Send a signal to all processes of a run that trains; it has to save and exit with 75.

    Returns:
        The signal's name, and the seconds it took; ``None`` for a run that was through before.
    """
    trains = watch_training(work)
    child = start(config, work, *resume_or_begin(work))
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
        trains = watch_training(work)
        child = start(config, work, *resume_or_begin(work))
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
    run_through(config, work, *resume_or_begin(work))
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
    expect_good_end(work, wait(child, 600) if status is None else status)
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
    told = re.findall(r"resuming with other batches: (.*)", alone.with_suffix(".txt").read_text())
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
