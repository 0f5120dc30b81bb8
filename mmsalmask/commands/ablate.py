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

    mmsalmask ablate PLAN --data photos/ --seeds 0 1 2 --work-dir work_dirs/ablation

All rows are checked before the first one starts. Started again with the same command, it goes on
where it stopped: finished runs are read, interrupted ones resumed. Labels (subfolders of --data)
are used by the classifiers alone: kNN and, with --linear, that of `mmsalmask linear`.

Rows are compared on a tenth of each class of --data, drawn by a seed and held out of pretraining
and of the classifiers' training. What is chosen by looking at them (a learning rate, a mask) may be
measured once, at the end, on --test images that no choice has seen.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mmsalmask.ablation.plan import CURVE_IMAGES, Row, Settings, check_judged, check_rows, read_plan
from mmsalmask.ablation.runs import evaluation, hold_out, run
from mmsalmask.ablation.table import draw, header, table_rows
from mmsalmask.cli import Parser, print_table, report_errors, work_dir_argument
from mmsalmask.config import config_file
from mmsalmask.downstream.tables import markdown_table
from mmsalmask.errors import InputError
from mmsalmask.files import write_atomically
from mmsalmask.jobs import run_all
from mmsalmask.provenance import provenance, write_result

HOLDOUT = 0.1


def ablate(
    plan: str | Path,
    data: str,
    seeds: Sequence[int] = (0,),
    work_dir: Path | None = None,
    holdout: float | None = None,
    test: str | None = None,
    train_per_class: int | None = None,
    size: int = 64,
    k: int = 20,
    linear: bool = False,
    curve: int | None = None,
    workers: int = 2,
    amp: str | None = None,
    rows: Sequence[str] | None = None,
    cfg_options: Sequence[str] = (),
    jobs: int = 1,
    json: Path | None = None,
) -> dict[str, dict[int, dict]]:
    """Pretrain every row of a plan with every seed, and compare the backbones.

    Prints what is done. Called again with the same arguments, it goes on where it stopped.

    Args:
        plan: a YAML file, see the module.
        data: folder ``<class>/<image>`` to pretrain on.
        seeds: of the runs of each row.
        work_dir: the folder of everything; ``None`` for ``work_dirs/<name of the plan>``.
        holdout: share of each class of ``data`` to compare the rows on.
        test: the final measurement: a folder ``<class>/<image>`` to classify.
        train_per_class: classify ``data`` by so many labelled images of each class of it. Without
            ``holdout``, ``test`` and this, a tenth of each class is held out.
        size: pixels of the images that kNN and linear classifiers get.
        k: neighbours that vote.
        linear: also evaluate a linear classifier.
        curve: also log kNN accuracy every so many epochs.
        workers: processes that decode.
        amp: mixed precision of the pretraining, ``"float16"`` or ``"bfloat16"``.
        rows: names of the rows to run; ``None`` for all.
        cfg_options: overrides of every row, as ``KEY=VALUE``.
        jobs: runs at a time, each on the next GPU.
        json: write the figures here, too.

    Returns:
        The result of each run by row and seed.

    Raises:
        InputError: the plan, a config or the data will not do; or, at the end, a run failed.

    Example::

        results = ablate("plan.yml", "photos", seeds=[0, 1, 2])
        print({row: runs[0]["top1"] for row, runs in results.items()})
    """
    if holdout is None and test is None and train_per_class is None:
        holdout = HOLDOUT
    work_dir = work_dir or default_work_dir(plan)
    settings = Settings(
        data,
        data,
        test or data,
        work_dir,
        holdout,
        test,
        train_per_class,
        size,
        k,
        linear,
        curve,
        workers,
        amp,
        list(cfg_options),
    )
    planned = read_plan(Path(plan), rows)
    channels = check_rows(planned, settings)
    if not Path(data).is_dir():
        raise InputError(f"--data: there is no folder {data}")
    if holdout:
        settings = hold_out(settings)
    for number in channels:
        check_judged(settings, number)
    origin = {**provenance(), "seed": list(seeds)}
    results, failures = run_rows(planned, seeds, settings, jobs)
    table = Table(*header(results))
    for cells in table_rows(results):
        table.add_row(*cells)
    print_table(table)
    text = markdown_table(header(results), table_rows(results))
    write_atomically(work_dir / "table.md", text.encode())
    draw(results, work_dir / "plot.png")
    told = {row.name: {**row._asdict(), "config": Path(row.config).name} for row in planned}
    same = {name: getattr(settings, name) for name in ("data", "amp", "cfg_options")}
    figures = {**origin, **same, **evaluation(settings), "rows": told, "results": results}
    for file in {work_dir / "results.json", json or work_dir / "results.json"}:
        write_result(file, figures)
    print(f"table: {work_dir / 'table.md'}  plot: {work_dir / 'plot.png'}")
    if holdout:
        print(
            f"judged on {holdout:.0%} of each class, held out: measure what you choose "
            "by it once, with --test, on images that it has not seen"
        )
    if failures:
        raise InputError(f"{len(failures)} of the runs failed: " + "; ".join(failures))
    return results


def run_rows(
    rows: Sequence[Row], seeds: Sequence[int], settings: Settings, jobs: int
) -> tuple[dict[str, dict[int, dict]], list[str]]:
    """Results by row and seed, and a sentence for each run that failed."""
    console = Console()
    results: dict[str, dict[int, dict]] = {row.name: {} for row in rows}
    failures = []
    # Seed by seed: a comparison of all rows is there as early as possible.
    pending = {
        (row.name, seed): partial(run, row, seed, settings) for seed in seeds for row in rows
    }
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("runs, left:"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("", total=len(pending))
        for (name, seed), result in run_all(pending, jobs):
            progress.advance(task)
            if isinstance(result, str):
                failures.append(f"{name}, seed {seed}: {result}")
                console.print(f"failed: {failures[-1]}", markup=False)
                continue
            results[name][seed] = result
            console.print(f"{name}, seed {seed}: {result['top1']:.1f} %", markup=False)
    return results, failures


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
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
        "--linear",
        action="store_true",
        help="also evaluate a linear classifier (mmsalmask linear)",
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
    options = parser.parse_args(words)
    if options.jobs < 1:
        parser.error(f"--jobs is {options.jobs}; give 1 or more")
    if options.holdout is not None and not 0 < options.holdout < 1:
        parser.error(f"--holdout is {options.holdout}; give a share between 0 and 1")
    if options.curve is not None and (options.curve < 1 or options.train_per_class is not None):
        parser.error(
            "--curve is a number of epochs, at least 1, and needs images that nothing is trained "
            "on: give no --train-per-class"
        )
    options.work_dir = options.work_dir or default_work_dir(options.plan)
    return options


def default_work_dir(plan: str | Path) -> Path:
    return Path("work_dirs") / Path(plan).stem


def main(words: list[str] | None = None) -> None:
    options = parse_arguments(words)
    with report_errors():
        ablate(**vars(options))
