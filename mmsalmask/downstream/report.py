"""A backbone's report: what its tasks give of figures and pictures, beside the published rows.

Results are dicts as :meth:`mmsalmask.downstream.task.Task.finish` gives them, one per job:
``task``, ``dataset``, ``figures``, ``schedule``, how it was made, and what pictures are drawn from.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pycocotools.cocoeval import COCOeval

from mmsalmask.downstream.tables import PUBLISHED, Published, markdown_table, read_table
from mmsalmask.downstream.task import Curves, Picture, registered
from mmsalmask.files import write_atomically
from mmsalmask.visualization.drawings import draw_precision_recall, precision_recall
from mmsalmask.visualization.page import write_page

SOURCE = (
    "Published rows: Chin et al., WACV 2024 (arXiv 2309.12757), {place}; ResNet-50 pretrained on "
    "ImageNet-100. They were not measured with this code."
)
TOO_SMALL = (
    "**Too small to compare.** The schedule `small` trains for a few hundred steps on tiny images "
    "with a reduced head. Its figures show that the whole way works and nothing else; published "
    "rows stand beside them for the form alone."
)
# A curve of precision with less of the plot below it lies on the axes.
SEEN = 0.01


# --------------------------------------------------------------------------------------- the text


def published_tables() -> dict[str, Published]:
    """The published table below each heading, with the columns of all tasks that share it."""
    tables = {}
    for task in registered().values():
        if task.published:
            known = tables.get(task.heading, task.published)
            columns = {**known.columns, **task.published.columns}
            tables[task.heading] = known._replace(columns=columns)
    return tables


def beside_published(
    table: Published, facts: Mapping[str, Any], results: Mapping[str, dict]
) -> str:
    """A published table with a row more, that of the results; empty where there is none of them.

    Args:
        facts: as :func:`compose` takes them; they mark the row.
    """
    figures = {key: value for each in results.values() for key, value in each["figures"].items()}
    if not figures.keys() & table.columns.keys():
        return ""
    rows = [
        [row["framework"].replace("-", "–"), row["method"], *map(row.get, table.columns)]
        for row in read_table(PUBLISHED / table.file, table.columns)
    ]
    shown = [f"**{figures[key]:.2f}**" if key in figures else "" for key in table.columns]
    own = "this backbone" + (", too small to compare" if facts["schedule"] == "small" else "")
    text = markdown_table(
        ["framework", "method", *table.columns.values()], [*rows, ["", f"**{own}**", *shown]], 2
    )
    source = SOURCE.format(place=table.place)
    marks = ", ".join(str(facts[key]) for key in ("name", "backbone", "commit", "hardware"))
    return f"{text}\n{source}\n\nThis backbone: {marks}, schedule {facts['schedule']}.\n"


def compose(
    facts: Mapping[str, Any],
    results: Mapping[str, dict],
    skipped: Sequence[str],
    pictures: Sequence[Picture],
    folder: Path,
) -> str:
    """The whole report as Markdown.

    Args:
        facts: ``name``, ``backbone``, ``schedule``, ``commit``, ``hardware``, and more to list.
        results: by the names of their jobs.
        skipped: a sentence for each task that was not run, or failed.
        pictures: below ``folder``.
        folder: that the report is written to.
    """
    sections = [
        ("", TOO_SMALL if facts["schedule"] == "small" else ""),
        ("", "".join(f"- {key}: {value}\n" for key, value in facts.items() if key != "name")),
        *_of_tasks(facts, results).items(),
        *((picture.title, _embedded(picture, folder)) for picture in pictures),
        ("Not run", "".join(f"- {sentence}\n" for sentence in skipped)),
        ("How the figures were made", _origins(results)),
    ]
    text = f"# Downstream tasks with {facts['name']}\n"
    for heading, body in sections:
        if body.strip():
            text += (f"\n## {heading}\n" if heading else "") + f"\n{body.strip()}\n"
    return text


def _of_tasks(facts: Mapping[str, Any], results: Mapping[str, dict]) -> dict[str, str]:
    """What stands below each heading: the published table, then what each task reports."""
    tables = published_tables()
    texts = {}
    for name, task in registered().items():
        if task.heading not in texts:
            table = tables.get(task.heading)
            texts[task.heading] = beside_published(table, facts, results) if table else ""
        if own := [each for each in results.values() if each["task"] == name]:
            texts[task.heading] += task.report(own)
    return texts


def _embedded(picture: Picture, folder: Path) -> str:
    if picture.file is None:
        return picture.caption
    place = picture.file.relative_to(folder).as_posix()
    return f"![{picture.title}]({place})\n\n*{picture.caption}*\n"


def _origins(results: Mapping[str, dict]) -> str:
    header = ["job", "schedule", "recipe", "train images", "test images", "minutes", "commit"]
    rows = [
        [
            name,
            each["schedule"],
            f"`{each['recipe']}`",
            *(str(each[f"{side}_images"]) for side in ("train", "test")),
            f"{each['seconds'] / 60:.1f}" + (" (resumed)" if each["resumed"] else ""),
            each["commit"],
        ]
        for name, each in results.items()
    ]
    if not rows:
        return ""
    notes = [
        f"\n**{each['shared_images']} of the {each['test_images']} test images of {name} are among "
        "its training images: its figures say nothing about other images.**\n"
        for name, each in results.items()
        if each.get("shared_images")
    ]
    hardware = sorted({f"{each['hardware']}, torch {each['torch']}" for each in results.values()})
    return markdown_table(header, rows, 3) + f"\nOn {'; '.join(hardware)}.\n" + "".join(notes)


def tables_only(text: str) -> str:
    """A report without its pictures, for a terminal."""
    parts = re.split(r"(?m)^(?=## )", text)
    return "".join(part for part in parts if "![" not in part)


# ----------------------------------------------------------------------------------- the pictures


def draw_pictures(results: Mapping[str, dict], folder: Path) -> list[Picture]:
    """Draw what the results have files for, into a folder; curves of all in one picture."""
    tasks = registered()
    drawn = [
        each
        for name, result in results.items()
        for each in tasks[result["task"]].draw(result, folder / f"{name}.png")
    ]
    curves = {each.title: each.evaluation for each in drawn if isinstance(each, Curves)}
    joined = [_draw_curves(curves, folder / "precision-recall.png")] if curves else []
    return joined + [each for each in drawn if isinstance(each, Picture)]


def _draw_curves(curves: Mapping[str, COCOeval], file: Path) -> Picture:
    """Draw the curves that can be seen, and name the others."""
    areas = {title: precision_recall(each)["IoU 0.50"] for title, each in curves.items()}
    areas = {title: area.mean() if len(area) else 0.0 for title, area in areas.items()}
    seen = {title: each for title, each in curves.items() if areas[title] >= SEEN}
    caption = []
    if seen:
        draw_precision_recall(seen, file)
        caption.append("By COCO's rules, the mean of the classes that have objects.")
    if hidden := [f"{each} ({100 * areas[each]:.2f} %)" for each in curves if each not in seen]:
        caption.append(
            f"Left out, because at AP50 below {100 * SEEN:.0f} % a curve lies on the axes: "
            f"{'; '.join(hidden)}."
        )
    return Picture(file if seen else None, "Precision and recall", " ".join(caption))


# --------------------------------------------------------------------------------------- the files


def write_report(text: str, folder: Path) -> None:
    """Write ``report.md``, and ``report.html`` with its pictures inside, into a folder."""
    write_atomically(folder / "report.md", text.encode())
    write_page(text, folder, folder / "report.html")
