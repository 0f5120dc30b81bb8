"""A backbone's report: its rows in the published tables, and pictures of what it found.

Results are dicts as ``tools/transfer.py`` writes them, one per job: ``task`` (linear, knn, voc,
coco or seg), ``dataset``, ``figures`` by the names of the published columns, ``schedule``, how it
was made, and the files that pictures are drawn from.
"""

import base64
import csv
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from mmsalmask.downstream.boxes import evaluate_detections
from mmsalmask.files import write_atomically
from mmsalmask.visualization.drawings import (
    draw_detections,
    draw_embedding,
    draw_precision_recall,
    draw_segmentations,
    precision_recall,
)

PUBLISHED = Path(__file__).with_name("published")
SOURCE = (
    "Published rows: Chin et al., WACV 2024 (arXiv 2309.12757), {place}; ResNet-50 pretrained on "
    "ImageNet-100. They were not measured with this code."
)
TOO_SMALL = (
    "**Too small to compare.** The schedule `small` trains for a few hundred steps on tiny images "
    "with a reduced head. Its figures show that the whole way works and nothing else; published "
    "rows stand beside them for the form alone."
)
KINDS = {"bbox": "boxes", "segm": "masks"}
# A curve of precision with less of the plot below it lies on the axes.
SEEN = 0.01


class PublishedTable(NamedTuple):
    """A published table: its file, where it stood, and the columns to show with their titles."""

    file: str
    place: str
    columns: dict[str, str]


LINEAR = PublishedTable(
    "table1_linear.csv",
    "Table 1 (linear evaluation, top-1 %)",
    {
        "imagenet100_top1": "ImageNet-100",
        "caltech101_top1": "Caltech-101",
        "flowers102_top1": "Flowers-102",
    },
)
DETECTION = PublishedTable(
    "table2_detection.csv",
    "Table 2 (AP, %)",
    {
        "voc_ap": "VOC AP",
        "voc_ap50": "AP50",
        "voc_ap75": "AP75",
        "coco_box_ap": "COCO box AP",
        "coco_box_ap50": "AP50",
        "coco_box_ap75": "AP75",
        "coco_mask_ap": "mask AP",
        "coco_mask_ap50": "AP50",
        "coco_mask_ap75": "AP75",
    },
)
NAMES = {
    "imagenet": "ImageNet-100",
    "caltech101": "Caltech-101",
    "flowers102": "Flowers-102",
    "voc": "VOC",
    "coco": "COCO",
    "cityscapes": "Cityscapes",
}


class Picture(NamedTuple):
    """A PNG, what it is called, and what it shows; without a PNG, why there is none."""

    file: Path | None
    title: str
    caption: str


# --------------------------------------------------------------------------------------- the text


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table whose first columns are left-aligned and whose others are figures."""
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    lines = "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))
    return lines + "\n"


def beside_published(
    table: PublishedTable, facts: Mapping[str, Any], results: Mapping[str, dict]
) -> str:
    """A published table with a row more, that of the results; empty where there is none of them.

    Args:
        facts: as :func:`compose` takes them; they mark the row.
    """
    figures = {key: value for each in results.values() for key, value in each["figures"].items()}
    if not figures.keys() & table.columns.keys():
        return ""
    with (PUBLISHED / table.file).open(newline="") as stream:
        rows = [
            [row["framework"].replace("-", "–"), row["method"], *map(row.get, table.columns)]
            for row in csv.DictReader(stream)
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
        ("", _list(facts)),
        ("Linear evaluation", beside_published(LINEAR, facts, results)),
        ("Nearest neighbours", _neighbours(results)),
        (
            "Detection and instance segmentation",
            beside_published(DETECTION, facts, results) + _coco_style(results),
        ),
        ("Semantic segmentation", _segmentation(results)),
        *((picture.title, _embedded(picture, folder)) for picture in pictures),
        ("Not run", "".join(f"- {sentence}\n" for sentence in skipped)),
        ("How the figures were made", _origins(results)),
    ]
    text = f"# Downstream tasks with {facts['name']}\n"
    for heading, body in sections:
        if body.strip():
            text += (f"\n## {heading}\n" if heading else "") + f"\n{body.strip()}\n"
    return text


def _list(facts: Mapping[str, Any]) -> str:
    return "".join(f"- {key}: {value}\n" for key, value in facts.items() if key != "name")


def _of_task(results: Mapping[str, dict], *tasks: str) -> list[dict]:
    return [each for each in results.values() if each["task"] in tasks]


def _neighbours(results: Mapping[str, dict]) -> str:
    rows = [
        [NAMES[each["dataset"]], k, f"{value['top1']:.2f}", f"{value['mean_per_class']:.2f}"]
        for each in _of_task(results, "knn")
        for k, value in each["by_k"].items()
    ]
    return markdown_table(["dataset", "k", "top-1 %", "mean per class %"], rows) if rows else ""


def _coco_style(results: Mapping[str, dict]) -> str:
    """VOC by COCO's rules, which the published table does not use."""
    return "".join(
        "\nVOC's AP is by VOC 2007's rules (11 points of recall). By COCO's rules: AP "
        f"{each['coco_style']['AP']:.2f}, AP50 {each['coco_style']['AP50']:.2f}, AP75 "
        f"{each['coco_style']['AP75']:.2f}.\n"
        for each in _of_task(results, "voc")
    )


def _segmentation(results: Mapping[str, dict]) -> str:
    rows = [
        [NAMES[each["dataset"]], *(f"{each['figures'][key]:.2f}" for key in ("mIoU", "mAcc"))]
        for each in _of_task(results, "seg")
    ]
    if not rows:
        return ""
    table = markdown_table(["dataset", "mIoU %", "mean accuracy of classes %"], rows)
    return table + "\nThere is no published row of these recipes to put beside them.\n"


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


def detection_evaluations(result: Mapping[str, Any]) -> dict:
    """COCO's evaluation of the boxes, and of the masks where there are, of a detection result.

    Args:
        result: has ``truth`` and ``found``, COCO files of annotations and results (by kind); and
            ``test_images``, how many images of the truth, the first, were tested.
    """
    truth = json.loads(Path(result["truth"]).read_text())
    images = truth["images"][: result["test_images"]]
    tested = {image["id"] for image in images}
    objects = [each for each in truth["annotations"] if each["image_id"] in tested]
    truth = {**truth, "images": images, "annotations": objects}
    return {
        kind: evaluate_detections(truth, json.loads(Path(file).read_text()), kind)
        for kind, file in result["found"].items()
    }


def draw_pictures(results: Mapping[str, dict], folder: Path) -> list[Picture]:
    """Draw what the results have files for, into a folder."""
    pictures, curves, finds = [], {}, []
    for name, result in results.items():
        dataset, file = NAMES.get(result["dataset"]), folder / f"{name}.png"
        if result["task"] in ("voc", "coco"):
            evaluations = detection_evaluations(result)
            kind, evaluation = list(evaluations.items())[-1]
            draw_detections(evaluation, Path(result["images"]), file, kind)
            caption = (
                "Above the truth; below as many detections, those with the best scores, if there "
                "are so many."
            )
            finds.append(Picture(file, f"Found on {dataset}", caption))
            curves |= {f"{dataset}, {KINDS[kind]}": each for kind, each in evaluations.items()}
        elif result["task"] == "seg":
            draw_segmentations(**result["shown"], picture=file)
            caption = (
                "The first test images; grey is background, white pixels of the truth do not count."
            )
            finds.append(Picture(file, f"Segmentation of {dataset}", caption))
        elif result.get("embedding"):
            draw_embedding(result["embedding"], file)
            caption = (
                f"The largest classes of {dataset}, at most 40 images each: features of the frozen "
                "backbone, ℓ2-normalised, laid out by t-SNE. Distances between groups mean little."
            )
            pictures.append(Picture(file, f"t-SNE of {dataset}", caption))
    if curves:
        pictures.append(_draw_curves(curves, folder / "precision-recall.png"))
    return [*pictures[::-1], *finds]


def _draw_curves(curves: Mapping[str, Any], file: Path) -> Picture:
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

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
body { overflow-wrap: break-word }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #ddd; vertical-align: baseline }
td[style*="right"] { white-space: nowrap }
td code { overflow-wrap: anywhere }
img { max-width: 100% } code { background: #f3f3f3 }
"""


def write_report(text: str, folder: Path) -> None:
    """Write ``report.md``, and ``report.html`` with its pictures inside, into a folder."""
    import markdown

    write_atomically(folder / "report.md", text.encode())
    body = markdown.markdown(text, extensions=["tables", "sane_lists"])
    body = re.sub(r'src="([^"]+)"', lambda found: _inline(folder / found[1]), body)
    title = escape(text.partition("\n")[0].removeprefix("# "))
    page = (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f"<style>{_STYLE}</style>\n{body}\n</html>\n"
    )
    write_atomically(folder / "report.html", page.encode())


def _inline(picture: Path) -> str:
    return f'src="data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"'
