"""Pretrain every row of a plan with every seed, and compare the backbones by kNN.

A plan is a YAML file: a config, the overrides that all rows share, and the rows.

    config: ../demo/mocov2-salmask-highpass_resnet18_demo.py   # relative to this file
    settings: {train_dataloader: {batch_size: 128}}            # as a child config would
    overrides: [train_cfg.max_epochs=20]                       # as --cfg-options would
    rows:
      - name: salient patches
      - name: random patches
        overrides: [model.data_preprocessor.masker.patches=random]
      - name: plain MoCo v2
        config: ../demo/mocov2_resnet18_demo.py
      - name: untrained
        pretrain: false

    python tools/ablate.py PLAN --data photos/ --seeds 0 1 2 --work-dir work_dirs/ablation

All rows are checked before the first one starts. Started again with the same command, it goes on
where it stopped: finished runs are read, interrupted ones resumed. Labels (subfolders of --data)
are used by the classifiers alone: kNN and, with --linear, the linear one of tools/linear.py.

Rows are compared on a tenth of each class of --data, drawn by a seed and held out of pretraining
and of the classifiers' training. What is chosen by looking at them (a learning rate, a mask) may be
measured once, at the end, on --test images that no choice has seen.
"""

import argparse
import json
import re
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from pprint import pformat
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import NamedTuple

import yaml
from matplotlib.figure import Figure
from mmengine.config import Config
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mmsalmask.cli import config_arguments, print_table, report_errors, work_dir_argument
from mmsalmask.config import check_config, config_file, load_config
from mmsalmask.data import ImageFolder, link_split, split_share
from mmsalmask.engine.resume.safe_checkpoint import run_checkpoints
from mmsalmask.errors import InputError
from mmsalmask.files import write_atomically
from mmsalmask.jobs import Place, call, claim, run_all, wait_for
from mmsalmask.provenance import provenance, write_result

TOOLS = Path(__file__).resolve().parent
MEASURES = {"top1": "top-1 %", "mean_per_class": "mean per class %"}
LINEAR = {"linear_top1": "linear top-1 %", "linear_mean_per_class": "linear mean per class %"}
# Images whose kNN accuracy is followed during pretraining: enough for a curve.
CURVE_IMAGES = 1000
HOLDOUT = 0.1


class Row(NamedTuple):
    """One line of the table: what is trained, or left untrained."""

    name: str
    config: str
    overrides: list[str]
    pretrain: bool
    settings: dict


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "plan", type=config_file, help="a YAML file with config, overrides and rows"
    )
    parser.add_argument("--data", required=True, help="folder <class>/<image> to pretrain on")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--holdout",
        type=float,
        metavar="SHARE",
        help="compare the rows on this share of each class of --data, which nothing is trained on "
        f"({HOLDOUT}, the default way)",
    )
    source.add_argument(
        "--test",
        help="the final measurement: train on all of --data and classify these images "
        "(<class>/<image>); choose no recipe by them",
    )
    source.add_argument(
        "--train-per-class",
        type=int,
        metavar="N",
        help="pretrain on all of --data, and classify it by N labelled images of each class of it",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--size", type=int, default=64, help="pixels of the kNN (%(default)s)")
    parser.add_argument("-k", type=int, default=20, help="neighbours that vote (%(default)s)")
    parser.add_argument(
        "--linear", action="store_true", help="also evaluate a linear classifier (tools/linear.py)"
    )
    parser.add_argument(
        "--curve",
        type=int,
        metavar="N",
        help="also log kNN accuracy every N epochs of the pretraining, on about "
        f"{CURVE_IMAGES:,} of the images that are held out, or of --test",
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="processes that decode (%(default)s)"
    )
    parser.add_argument("--amp", choices=["float16", "bfloat16"])
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="only these rows of the plan")
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of every row"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs at a time, each on the next GPU (%(default)s)"
    )
    work_dir_argument(parser, "work_dirs/<name of the plan>")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs is {options.jobs}; give 1 or more")
    if not options.test and options.train_per_class is None and options.holdout is None:
        options.holdout = HOLDOUT
    if options.holdout is not None and not 0 < options.holdout < 1:
        parser.error(f"--holdout is {options.holdout}; give a share between 0 and 1")
    if options.curve is not None and (options.curve < 1 or options.train_per_class is not None):
        parser.error(
            "--curve is a number of epochs, at least 1, and needs images that nothing is trained "
            "on: give no --train-per-class"
        )
    # What is trained on and classified; of --data as a whole until a part of it is held out.
    options.train, options.judged = options.data, options.test or options.data
    options.work_dir = options.work_dir or Path("work_dirs") / options.plan.stem
    return options


# ---------------------------------------------------------------------------------------- the plan


def read_plan(path: Path, only: list[str] | None = None) -> list[Row]:
    """The rows of a plan, each with its config and all its overrides.

    Raises:
        InputError: The file is missing, not YAML, or not of the form that the module describes.
    """
    try:
        plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such plan") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    _refuse_other_keys(plan, {"config", "settings", "overrides", "rows"}, str(path))
    entries = plan.get("rows")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path} has no rows; give a list of them, each with a name")
    rows = [_read_row(path, plan, entry) for entry in entries]
    names = [row.name for row in rows]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path} has two rows named {twice[0]!r}")
    if unknown := sorted(set(only or ()) - set(names)):
        raise InputError(f"--rows: {path} has no row {unknown[0]!r}, but {', '.join(names)}")
    return [row for row in rows if not only or row.name in only]


def _read_row(path: Path, plan: dict, entry: dict) -> Row:
    known = {"name", "config", "settings", "overrides", "pretrain"}
    _refuse_other_keys(entry, known, f"a row of {path}")
    if "name" not in entry:
        raise InputError(f"{path}: a row has no name")
    name = str(entry["name"])
    config = entry.get("config", plan.get("config"))
    if config is None:
        raise InputError(f"{path}: neither row {name!r} nor the plan as a whole has a config")
    overrides = [*plan.get("overrides", []), *entry.get("overrides", [])]
    both = [each.get("settings") or {} for each in (plan, entry)]
    if not all(isinstance(each, dict) for each in both):
        raise InputError(f"{path}: settings of row {name!r} are no mapping, as a config's are")
    settings = _plain(Config._merge_a_into_b(both[1], both[0]))
    pretrain = entry.get("pretrain", True)
    return Row(name, str(path.parent / config_file(config)), overrides, pretrain, settings)


def _refuse_other_keys(mapping: object, known: set[str], where: str) -> None:
    if not isinstance(mapping, dict):
        raise InputError(f"{where} is not a mapping with the keys {', '.join(sorted(known))}")
    if unknown := sorted(set(mapping) - known):
        raise InputError(
            f"{where} has the key {unknown[0]!r}; known are {', '.join(sorted(known))}"
        )


def check_rows(rows: list[Row], options: argparse.Namespace) -> None:
    """Read every config with its settings and overrides, so that no mistake waits for its turn."""
    parser = argparse.ArgumentParser()
    config_arguments(parser)
    with TemporaryDirectory() as folder:
        for row in rows:
            words = [*row.overrides, *options.cfg_options]
            child = write_config(row, options, Path(folder))
            parsed = parser.parse_args([child, *(["--cfg-options", *words] if words else [])])
            try:
                check_config(load_config(parsed.config, parsed.cfg_options))
            except InputError as error:
                raise InputError(f"row {row.name!r}: {error}") from None


def write_config(row: Row, options: argparse.Namespace, folder: Path) -> str:
    """The row's config or, where the plan or the options say more, a child of it in ``folder``."""
    settings = dict(row.settings)
    if options.curve:
        hooks = settings.get("custom_hooks", load_config(row.config).get("custom_hooks", []))
        settings["custom_hooks"] = [*hooks, _knn_hook(options)]
    if not settings:
        return row.config
    lines = [f"_base_ = {str(Path(row.config).resolve())!r}"]
    lines += [f"{name} = {pformat(_plain(value))}" for name, value in settings.items()]
    child = folder / Path(row.config).name
    # The other seeds' jobs may be reading it.
    write_atomically(child, ("\n".join(lines) + "\n").encode())
    return str(child)


def _knn_hook(options: argparse.Namespace) -> dict:
    labelled = {"type": "mmsalmask.ImageFolder", "with_label": True}
    number = len(ImageFolder(str(options.judged)))
    spread = list(range(0, number, max(1, number // CURVE_IMAGES)))
    return {
        "type": "mmsalmask.KNNHook",
        "train": {"data_root": str(options.train), **labelled},
        "test": {"data_root": str(options.judged), "indices": spread, **labelled},
        "interval": options.curve,
        "size": options.size,
        "metric": {"type": "mmsalmask.KNNMetric", "k": options.k},
        "num_workers": options.workers,
    }


def _plain(value: object) -> object:
    """Dicts and lists where mmengine has its own kinds."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


# ---------------------------------------------------------------------------------------- the runs


def hold_out(options: argparse.Namespace) -> None:
    """Train on one part of --data and judge on the other, links to its images in two folders.

    Seed 0 draws the part, whatever the seeds of the runs: all rows and seeds are judged alike.
    """
    choose = partial(split_share, held_out=options.holdout, seed=0)
    drawn, sides = {"holdout": options.holdout}, ("train", "held_out")
    parts = link_split(Path(options.data), options.work_dir / "photos", sides, choose, drawn)
    options.train, options.judged = parts


def run(row: Row, seed: int, options: argparse.Namespace, place: Place) -> dict:
    """Pretrain and evaluate one row with one seed, or read what an earlier call finished."""
    folder = options.work_dir / re.sub(r"[^\w.-]+", "-", row.name) / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    same = {name: getattr(options, name) for name in ("data", "holdout", "amp", "cfg_options")}
    claim(folder, {**row._asdict(), "curve": options.curve, "seed": seed, **same})
    config = [write_config(row, options, folder.parent), "--cfg-options"]
    config += [*row.overrides, *options.cfg_options]
    config += [f"data_root={options.train}", f"randomness.seed={seed}"]
    finished = folder / "result.json"
    result = json.loads(finished.read_text()) if finished.exists() else {}
    if "checkpoint" not in result:
        result = {**provenance(seed), "checkpoint": "none", "pretraining_seconds": 0}
        if row.pretrain:
            result |= pretrain(config, folder, options, place)
        write_result(finished, result)
    settings = evaluation(options)
    if result.get("evaluation") != settings:
        result |= evaluate(config, result["checkpoint"], seed, folder, options, place)
        result["evaluation"] = settings
        write_result(finished, result)
    return result


def pretrain(config: list[str], folder: Path, options: argparse.Namespace, place: Place) -> dict:
    """Train from the start, or from the newest checkpoint of the folder."""
    words = [f"--work-dir={folder}", *([f"--amp={options.amp}"] if options.amp else [])]
    wait_for(folder / "train.log")  # a kill of this tool alone leaves training going
    if run_checkpoints(folder):
        words.append("--resume")
    start = time.perf_counter()
    call(TOOLS / "train.py", [*config, "--verbose", *words], folder / "train.log", place)
    return {
        "checkpoint": (folder / "last_checkpoint").read_text().strip(),
        "pretraining_seconds": round(time.perf_counter() - start),
        "curves": read_curves(folder),
    }


def read_curves(folder: Path) -> dict[str, list]:
    """Of a run's logs: pairs of epoch and its mean loss, and of epoch and kNN top-1."""
    losses, accuracies = defaultdict(list), {}
    for log in sorted(folder.glob("*/vis_data/scalars.json")):
        for line in map(json.loads, log.read_text().splitlines()):
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
    options: argparse.Namespace,
    place: Place,
) -> dict:
    """kNN accuracy, and the linear classifier's where it is asked for."""
    tool, k = ("linear", "--knn") if options.linear else ("knn", "-k")
    file = folder / f"{tool}.json"
    words = [config[0], checkpoint, f"--train={options.train}", f"--seed={seed}"]
    words += [f"--size={options.size}", f"--json={file}", k, str(options.k)]
    words.append(f"--workers={options.workers}")
    if options.train_per_class is None:
        words.append(f"--test={options.judged}")
    else:
        words.append(f"--train-per-class={options.train_per_class}")
    if options.linear:
        words.append("--each")
    call(TOOLS / f"{tool}.py", [*words, *config[1:]], folder / f"{tool}.log", place)
    found = json.loads(file.read_text())
    if not options.linear:
        return found
    knn = {key: found["knn"][key] for key in MEASURES}
    linear = {f"linear_{key}": found[key] for key in MEASURES}
    kept = ("learning_rate", "trials", "right", "train_images", "test_images", "classes")
    return {**knn, **linear, **{key: found[key] for key in kept}}


def evaluation(options: argparse.Namespace) -> dict:
    """What an accuracy depends on besides the backbone."""
    judge = ("holdout", "test", "train_per_class")
    given = [name for name in judge if getattr(options, name) is not None]
    found = {name: getattr(options, name) for name in (*given, "size", "k")}
    return {**found, "linear": True} if options.linear else found


# -------------------------------------------------------------------------------------- the report


def summary(values: list[float]) -> str:
    """``mean ± standard deviation`` of the sample; of one value that value."""
    if not values:
        return "–"
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def table_rows(results: dict[str, dict[int, dict]]) -> list[list[str]]:
    """Cells: row, each measure, top-1 minus that of the first row (paired by seed), minutes."""
    baseline = next(iter(results.values()))
    cells = []
    for name, runs in results.items():
        measures = [
            summary([run[key] for run in runs.values() if key in run]) for key in measured(results)
        ]
        paired = [runs[seed]["top1"] - baseline[seed]["top1"] for seed in runs if seed in baseline]
        minutes = [run["pretraining_seconds"] / 60 for run in runs.values()]
        difference = "" if runs is baseline else summary(paired)
        cells.append([name, *measures, difference, summary(minutes)])
    return cells


def measured(results: dict[str, dict[int, dict]]) -> dict[str, str]:
    """The measures that the runs have, and their titles."""
    linear = any("linear_top1" in run for runs in results.values() for run in runs.values())
    return {**MEASURES, **LINEAR} if linear else MEASURES


def header(results: dict[str, dict[int, dict]]) -> list[str]:
    return [
        "row",
        *measured(results).values(),
        f"top-1 − {next(iter(results))}",
        "pretraining, min",
    ]


def markdown(results: dict[str, dict[int, dict]]) -> str:
    """The table as Markdown, its first column left-aligned."""
    titles = header(results)
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *table_rows(results)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def draw(results: dict[str, dict[int, dict]], picture: Path) -> None:
    """A line per row: every seed a dot, their mean a bar."""
    names = list(results)
    figure = Figure(figsize=(7, 1.2 + 0.38 * len(names)), dpi=130, layout="constrained")
    axis = figure.subplots()
    for place, name in enumerate(names):
        values = [run["top1"] for run in results[name].values()]
        if values:
            axis.plot([mean(values)] * 2, [place - 0.3, place + 0.3], color="tab:blue", lw=2.5)
            axis.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.45, mew=0)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlabel("kNN top-1, % (dot: a seed, bar: their mean)")
    axis.grid(axis="x", alpha=0.3)
    figure.savefig(picture)


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    console = Console()
    with report_errors():
        rows = read_plan(options.plan, options.rows)
        check_rows(rows, options)
        if not Path(options.data).is_dir():
            raise InputError(f"--data: there is no folder {options.data}")
        if options.holdout:
            hold_out(options)
        origin = {**provenance(), "seed": options.seeds}
        results: dict[str, dict[int, dict]] = {row.name: {} for row in rows}
        failures = []
        # Seed by seed: a comparison of all rows is there as early as possible.
        pending = {
            (row.name, seed): partial(run, row, seed, options)
            for seed in options.seeds
            for row in rows
        }
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("runs, left:"))
        with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
            task = progress.add_task("", total=len(pending))
            for (name, seed), result in run_all(pending, options.jobs):
                progress.advance(task)
                if isinstance(result, str):
                    failures.append(f"{name}, seed {seed}: {result}")
                    console.print(f"failed: {failures[-1]}", markup=False)
                    continue
                results[name][seed] = result
                console.print(f"{name}, seed {seed}: {result['top1']:.1f} %", markup=False)
        table = Table(*header(results))
        for cells in table_rows(results):
            table.add_row(*cells)
        print_table(table)
        (options.work_dir / "table.md").write_text(markdown(results), encoding="utf-8")
        draw(results, options.work_dir / "plot.png")
        plan = {row.name: {**row._asdict(), "config": Path(row.config).name} for row in rows}
        same = {name: getattr(options, name) for name in ("data", "amp", "cfg_options")}
        data = {**origin, **same, **evaluation(options), "rows": plan, "results": results}
        for file in {
            options.work_dir / "results.json",
            options.json or options.work_dir / "results.json",
        }:
            write_result(file, data)
        print(f"table: {options.work_dir / 'table.md'}  plot: {options.work_dir / 'plot.png'}")
        if options.holdout:
            print(
                f"judged on {options.holdout:.0%} of each class, held out: measure what you choose "
                "by it once, with --test, on images that it has not seen"
            )
        if failures:
            raise InputError(f"{len(failures)} of the runs failed: " + "; ".join(failures))


if __name__ == "__main__":
    main()
