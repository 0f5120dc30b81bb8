"""Pretraining and evaluating the rows of a plan, so that an interrupted call can go on."""

import json
from collections import defaultdict
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import mean

from mmsalmask.ablation.plan import Row, Settings, write_config
from mmsalmask.ablation.table import MEASURES
from mmsalmask.data import link_split, split_share
from mmsalmask.engine.resume.log_files import logged_points
from mmsalmask.engine.resume.safe_checkpoint import run_checkpoints
from mmsalmask.jobs import Place, call, claim, wait_for
from mmsalmask.provenance import provenance, write_result


def hold_out(settings: Settings) -> Settings:
    """Train on one part of the data and judge on the other, links to its images in two folders.

    Seed 0 draws the part, whatever the seeds of the runs: all rows and seeds are judged alike.
    """
    choose = partial(split_share, held_out=settings.holdout, seed=0)
    drawn, sides = {"holdout": settings.holdout}, ("train", "held_out")
    parts = link_split(Path(settings.data), settings.work_dir / "photos", sides, choose, drawn)
    return replace(settings, train=parts[0], judged=parts[1])


def run(row: Row, seed: int, settings: Settings, place: Place) -> dict:
    """Pretrain and evaluate one row with one seed, or read what an earlier call finished."""
    folder = settings.work_dir / row.folder / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    same = {name: getattr(settings, name) for name in ("data", "holdout", "amp", "cfg_options")}
    claim(folder, {**row._asdict(), "curve": settings.curve, "seed": seed, **same})
    config = [write_config(row, settings, folder.parent), "--cfg-options"]
    config += [*row.overrides, *settings.cfg_options]
    config += [f"data_root={settings.train}", f"randomness.seed={seed}"]
    finished = folder / "result.json"
    result = json.loads(finished.read_text()) if finished.exists() else {}
    if "checkpoint" not in result:
        result = {**provenance(seed), "checkpoint": "none", "pretraining_seconds": 0}
        if row.pretrain:
            result |= pretrain(config, folder, settings, place)
        write_result(finished, result)
    judged = evaluation(settings)
    if result.get("evaluation") != judged:
        result |= evaluate(config, result["checkpoint"], seed, folder, settings, place)
        result["evaluation"] = judged
        write_result(finished, result)
    return result


def pretrain(config: list[str], folder: Path, settings: Settings, place: Place) -> dict:
    """Train from the start, or from the newest checkpoint of the folder."""
    words = [f"--work-dir={folder}", *([f"--amp={settings.amp}"] if settings.amp else [])]
    wait_for(folder / "train.log")  # a kill of this tool alone leaves training going
    if run_checkpoints(folder):
        words.append("--resume")
    call("train", *config, "--verbose", *words, log=folder / "train.log", place=place)
    return {
        "checkpoint": (folder / "last_checkpoint").read_text().strip(),
        "pretraining_seconds": round(trained_seconds(folder)),
        "curves": read_curves(folder),
    }


def trained_seconds(folder: Path) -> float:
    """What the steps of a run took by its logs, those of interrupted calls among them."""
    points = [line for line in logged_points(folder) if "time" in line]
    steps = [0, *(line["step"] for line in points)]
    return sum(
        (step - before) * line["time"]
        for line, (before, step) in zip(points, pairwise(steps), strict=True)
    )


def read_curves(folder: Path) -> dict[str, list]:
    """Of a run's logs: pairs of epoch and its mean loss, and of epoch and kNN top-1."""
    losses, accuracies = defaultdict(list), {}
    for line in logged_points(folder):
        if "loss" in line:
            losses[line["epoch"]].append(line["loss"])
        if "knn_top1" in line:
            accuracies[line["step"]] = line["knn_top1"]
    return {
        "loss": [[epoch, round(mean(values), 4)] for epoch, values in sorted(losses.items())],
        "knn_top1": [list(point) for point in sorted(accuracies.items())],
    }


def evaluate(
    config: list[str],
    checkpoint: str,
    seed: int,
    folder: Path,
    settings: Settings,
    place: Place,
) -> dict:
    """kNN accuracy, and the linear classifier's where it is asked for."""
    tool, k = ("linear", "--knn") if settings.linear else ("knn", "-k")
    file = folder / f"{tool}.json"
    words = [config[0], checkpoint, f"--train={settings.train}", f"--seed={seed}"]
    words += [f"--size={settings.size}", f"--json={file}", k, str(settings.k)]
    words.append(f"--workers={settings.workers}")
    if settings.train_per_class is None:
        words.append(f"--test={settings.judged}")
    else:
        words.append(f"--train-per-class={settings.train_per_class}")
    if settings.linear:
        words.append("--each")
    call(tool, *words, *config[1:], log=folder / f"{tool}.log", place=place)
    found = json.loads(file.read_text())
    if not settings.linear:
        own = provenance()  # of knn alone; the result tells that of the whole
        return {key: value for key, value in found.items() if key not in own}
    knn = {key: found["knn"][key] for key in MEASURES}
    linear = {f"linear_{key}": found[key] for key in MEASURES}
    kept = ("learning_rate", "trials", "right", "train_images", "test_images", "classes")
    return {**knn, **linear, **{key: found[key] for key in kept}}


def evaluation(settings: Settings) -> dict:
    """What an accuracy depends on besides the backbone."""
    judge = ("holdout", "test", "train_per_class")
    given = [name for name in judge if getattr(settings, name) is not None]
    found = {name: getattr(settings, name) for name in (*given, "size", "k")}
    return {**found, "linear": True} if settings.linear else found
