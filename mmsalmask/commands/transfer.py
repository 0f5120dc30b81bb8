"""Take a pretrained backbone through every downstream task that the data on disk allows.

    mmsalmask transfer work_dirs/mine/epoch_200.pth --data-root data
    mmsalmask transfer work_dirs/mine/epoch_20.pth --schedule small \\
        --data caltech101=photos/caltech coco=photos/coco voc=photos/VOCdevkit

The datasets are looked for below --data-root (`mmsalmask data` looks at them); --data says
where one lies elsewhere. A task without data is left out, or refused if --tasks names it.

The backbone is exported once. One that learned from high-pass filtered images gets the recipes with
the filter. Each task is a process of its own, one per GPU at a time, or one after the other on a
CPU. Started again with the same command, the tool goes on where it stopped. It ends with report.md
and report.html: the published tables with a row for this backbone, and pictures. They tell all
tasks that the folder has results of, those of earlier commands too.

The schedule full is that of the recipes; small is for two CPU cores, and for no comparison.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from mmsalmask import jobs
from mmsalmask.checkpoint import save_backbone
from mmsalmask.cli import Parser, report_errors, work_dir_argument
from mmsalmask.downstream.backbone import Backbone, read_backbone
from mmsalmask.downstream.report import compose, draw_pictures, tables_only, write_report
from mmsalmask.downstream.task import SCHEDULES, Setting, Task, known_datasets, registered
from mmsalmask.errors import InputError
from mmsalmask.provenance import provenance, write_result


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    tasks, datasets = registered(), known_datasets()
    told = [
        f"  {name:<8}{task.heading}: {', '.join(each.title for each in task.recipes)}"
        for name, task in tasks.items()
    ]
    folders = ", ".join(f"{name} ({each.folder})" for name, each in datasets.items())
    parser = Parser(
        __doc__,
        epilog="\n".join(["tasks:", *told, f"datasets, and their folders: {folders}"]),
    )
    parser.add_argument("checkpoint", help="of a pretraining, or an exported backbone")
    parser.add_argument("--tasks", metavar="TASK,…", help=f"of {','.join(tasks)} (all with data)")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="(%(default)s)")
    parser.add_argument(
        "--data", nargs="+", default=[], metavar="NAME=FOLDER", help="where datasets lie elsewhere"
    )
    parser.add_argument("--schedule", choices=SCHEDULES, default="full")
    parser.add_argument(
        "--train-per-class",
        type=int,
        default=30,
        metavar="N",
        help="split Caltech-101, of which N images of each class are for training (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0)
    work_dir_argument(parser, "work_dirs/transfer/<folder>-<checkpoint>-<schedule>")
    options = parser.parse_args(arguments)
    options.tasks = None if options.tasks is None else options.tasks.split(",")
    options.data = dict(word.partition("=")[::2] for word in options.data)
    return options


def transfer(
    backbone: str | Path,
    tasks: Sequence[str] | None = None,
    data: Mapping[str, str | Path] | None = None,
    out: str | Path | None = None,
    data_root: str | Path = "data",
    schedule: str = "full",
    train_per_class: int = 30,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Take a backbone through downstream tasks, and write a report.

    Prints what is done. Called again with the same arguments, it goes on where it stopped.

    Args:
        backbone: a checkpoint of a pretraining, or an exported backbone.
        tasks: names of tasks, each of which needs data; ``None`` for all that have data.
        data: folders of datasets by their names, where they do not lie below ``data_root``.
        out: folder of all results; ``None`` for one below ``work_dirs/transfer``.
        data_root: the folder of all datasets.
        schedule: ``"full"``, that of the recipes, or ``"small"``, for two CPU cores.
        train_per_class: split Caltech-101, of which so many images of each class are for training.
        seed: of splits and of training.

    Returns:
        The result of each job by its name, as ``<out>/results.json`` has it; those of earlier calls
        with the same schedule and seed are among them.

    Raises:
        InputError: an unknown name, a checkpoint without a fitting backbone, a task without data;
            after the report is written, a job that failed.

    Example::

        results = transfer("work_dirs/mine/epoch_200.pth", ["knn"], {"caltech101": "photos"})
        print(results["knn-caltech101"]["by_k"])
    """
    _check_names(tasks or (), data or {}, schedule)
    # A log file bears wider tables than the 80 columns that are taken for it.
    console = Console(width=None if sys.stdout.isatty() else 140)
    tell = partial(console.print, markup=False, highlight=False)
    found = read_backbone(backbone, out and Path(out), schedule)
    folders = {
        name: Path((data or {}).get(name, Path(data_root, each.folder))).resolve()
        for name, each in known_datasets().items()
    }
    out = found.file.parent
    setting = Setting(found, folders, out, schedule, train_per_class, seed)
    planned, skipped = plan(setting, tasks, Path(data_root))
    # One backbone to a folder: its file and its report are there, whatever the tasks.
    jobs.claim(out, {"source_sha256": found.facts["source_sha256"]})
    for task in planned.values():
        jobs.claim(task.folder, task.identity())
    save_backbone(found.state, found.file, "openmmlab", found.facts)
    origin = provenance(seed)
    for sentence in skipped:
        tell(f"left out: {sentence}")
    tell(f"{len(planned)} jobs: {', '.join(planned)}")
    pending = {job: partial(task.finish, origin) for job, task in planned.items()}
    failures = []
    for job, result in jobs.run_all(pending, max(1, len(jobs.visible_gpus()))):
        if isinstance(result, str):
            failures.append(f"{job}: {result}")
            tell(f"failed: {failures[-1]}")
        else:
            tell(f"done: {job}, {result['seconds']} s")
    results = finished(setting)
    write_result(out / "results.json", {**origin, "results": results})
    pictures = draw_pictures(results, out / "pictures")
    facts = describe(found, schedule, origin)
    text = compose(facts, results, [*skipped, *failures], pictures, out)
    write_report(text, out)
    console.print(Markdown(tables_only(text)))
    print(f"report: {out / 'report.html'}  and  {out / 'report.md'}")
    if failures:
        raise InputError(f"{len(failures)} of the jobs failed: " + "; ".join(failures))
    return results


def _check_names(tasks: Sequence[str], data: Mapping[str, str | Path], schedule: str) -> None:
    known, datasets = registered(), known_datasets()
    if unknown := [task for task in tasks if task not in known]:
        raise InputError(f"--tasks: no task {unknown[0]!r}; there are {', '.join(known)}")
    if [name for name, folder in data.items() if name not in datasets or not folder]:
        raise InputError(f"--data: give NAME=FOLDER with a NAME of {', '.join(datasets)}")
    if schedule not in SCHEDULES:
        raise InputError(f"the schedule is {schedule!r}: give one of {', '.join(SCHEDULES)}")


def plan(
    setting: Setting, names: Sequence[str] | None, data_root: Path
) -> tuple[dict[str, Task], list[str]]:
    """All tasks whose data is there, checked, by their jobs; and a sentence for each other.

    Args:
        names: of the tasks that must have data; ``None`` for all that have.
        data_root: for the message.

    Raises:
        InputError: a task that is named has no data, or none has.
    """
    planned, skipped = {}, []
    kinds = registered()
    for name in kinds if names is None else names:
        found, reasons = {}, []
        for dataset in kinds[name].recipes:
            task = kinds[name](dataset, setting)
            try:
                task.prepare()
                found[task.job] = task
            except InputError as error:
                reasons.append(f"{task.job}: {error}")
        if names is not None and not found:
            raise InputError(f"--tasks {name}: {'; '.join(reasons)}")
        planned |= found
        skipped += reasons
    if not planned:
        raise InputError(
            f"there is no data for any task below {data_root}: see `mmsalmask data`, "
            "or say with --data where it lies"
        )
    return planned, skipped


def finished(setting: Setting) -> dict[str, dict[str, Any]]:
    """The results that the folder holds, by their jobs, in the order of the report."""
    kinds = registered().values()
    tasks = [kind(dataset, setting) for kind in kinds for dataset in kind.recipes]
    files = {task.job: task.folder / "result.json" for task in tasks}
    results = {job: json.loads(file.read_text()) for job, file in files.items() if file.exists()}
    same = {"schedule": setting.schedule, "seed": setting.seed}.items()
    return {job: result for job, result in results.items() if same <= result.items()}


def describe(backbone: Backbone, schedule: str, origin: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that a report begins with."""
    known = backbone.facts
    return {
        "name": backbone.name,
        "backbone": f"ResNet-{backbone.depth}",
        "pretrained by": known["model"],
        "epoch": known["epoch"],
        "left over of the checkpoint": backbone.left_over,
        "high-pass filtered images": {"true": "yes", "false": "no"}.get(
            known["high_pass"], "unknown, taken for no"
        ),
        "checkpoint's SHA-256": known["source_sha256"][:16],
        "schedule": schedule,
        **{key: origin[key] for key in ("command", "commit", "hardware", "torch", "seed")},
    }


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    with report_errors():
        transfer(
            options.checkpoint,
            options.tasks,
            options.data,
            options.work_dir,
            options.data_root,
            options.schedule,
            options.train_per_class,
            options.seed,
        )
