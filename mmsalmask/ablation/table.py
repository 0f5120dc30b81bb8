"""The table and the picture that compare the rows of a plan."""

import textwrap
from pathlib import Path
from statistics import mean, stdev

from matplotlib.figure import Figure

from mmsalmask.visualization.saving import save_figure

MEASURES = {"top1": "top-1 %", "mean_per_class": "mean per class %"}
_LETTERS = 32  # of a line of a row's name in the picture
LINEAR = {"linear_top1": "linear top-1 %", "linear_mean_per_class": "linear mean per class %"}


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


def draw(results: dict[str, dict[int, dict]], picture: Path) -> None:
    """A line per row: every seed a dot, their mean a bar."""
    names = [textwrap.fill(name, _LETTERS) for name in results]
    lines = 1 + max(name.count("\n") for name in names)
    height = max(0.38, 0.2 * lines) * len(names)
    figure = Figure(figsize=(7, 1.2 + height), dpi=130, layout="constrained")
    axis = figure.subplots()
    for place, runs in enumerate(results.values()):
        values = [run["top1"] for run in runs.values()]
        if values:
            axis.plot([mean(values)] * 2, [place - 0.3, place + 0.3], color="tab:blue", lw=2.5)
            axis.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.45, mew=0)
    axis.set_yticks(range(len(names)), names, parse_math=False)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlabel("kNN top-1, % (dot: a seed, bar: their mean)")
    axis.grid(axis="x", alpha=0.3)
    save_figure(figure, picture)
