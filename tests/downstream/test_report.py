"""The report: every published row beside the backbone's own, marked for what it is."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from browser import in_browser, measure
from PIL import Image

from mmsalmask.downstream.detection import detection_evaluations
from mmsalmask.downstream.report import (
    beside_published,
    compose,
    draw_pictures,
    published_tables,
    tables_only,
    write_report,
)
from mmsalmask.downstream.tables import PUBLISHED, markdown_table
from mmsalmask.downstream.task import Picture

TABLES = published_tables()
LINEAR = TABLES["Linear evaluation"]
DETECTION = TABLES["Detection and instance segmentation"]

FACTS = {
    "name": "run/epoch_9.pth",
    "backbone": "ResNet-50",
    "schedule": "full",
    "commit": "abc1234",
    "hardware": "one GPU",
}
MADE = {
    "schedule": "full",
    "recipe": "recipe.py",
    "train_images": 30,
    "test_images": 12,
    "seconds": 90,
    "resumed": False,
    "commit": "abc1234",
    "hardware": "one GPU",
    "torch": "2.11",
}
RESULTS = {
    "linear-caltech101": {
        **MADE,
        "task": "linear",
        "dataset": "caltech101",
        "figures": {"caltech101_top1": 81.234},
    },
    "knn-caltech101": {
        **MADE,
        "task": "knn",
        "dataset": "caltech101",
        "figures": {},
        "by_k": {"20": {"top1": 70.0, "mean_per_class": 60.5}},
    },
    "voc": {
        **MADE,
        "task": "voc",
        "dataset": "voc",
        "figures": {"voc_ap": 50.5, "voc_ap50": 76.0, "voc_ap75": 55.0},
        "coco_style": {"AP": 48.0, "AP50": 75.0, "AP75": 52.0},
        "resumed": True,
    },
    "seg-voc": {
        **MADE,
        "task": "seg",
        "dataset": "voc",
        "figures": {"mIoU": 61.5, "mAcc": 70.25, "aAcc": 90.0},
        "shared_images": 12,
    },
}


def cells(text: str) -> list[list[str]]:
    """The rows of all tables of a Markdown text."""
    lines = (line for line in text.splitlines() if line.startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_all_published_rows_stand_above_the_own_one(table):
    text = beside_published(table, FACTS, RESULTS)
    _, _, *rows, own = cells(text)
    with (PUBLISHED / table.file).open() as file:
        published = list(csv.DictReader(file))
    assert [row[2:] for row in rows] == [[row[key] for key in table.columns] for row in published]
    assert [row[1] for row in rows] == [row["method"] for row in published]
    wanted = {"caltech101_top1": "**81.23**", "voc_ap": "**50.50**"}
    wanted |= {"voc_ap50": "**76.00**", "voc_ap75": "**55.00**"}
    assert own == ["", "**this backbone**", *(wanted.get(key, "") for key in table.columns)]
    assert "Chin et al., WACV 2024" in text
    assert f"This backbone: {', '.join(map(FACTS.get, ('name', 'backbone')))}, abc1234" in text


def test_without_figures_there_is_no_table():
    assert beside_published(DETECTION, FACTS, {"knn": RESULTS["knn-caltech101"]}) == ""


def test_the_report_tells_figures_what_was_left_out_and_how_it_was_made(tmp_path):
    text = compose(FACTS, RESULTS, ["coco: there is no folder coco"], [], tmp_path)
    rows = cells(text)
    assert ["Caltech-101", "20", "70.00", "60.50"] in rows
    assert ["VOC", "61.50", "70.25"] in rows
    assert "By COCO's rules: AP 48.00, AP50 75.00, AP75 52.00." in text
    assert "- coco: there is no folder coco" in text
    assert ["voc", "full", "`recipe.py`", "30", "12", "1.5 (resumed)", "abc1234"] in rows
    assert "On one GPU, torch 2.11." in text
    assert "12 of the 12 test images of seg-voc are among its training images" in text
    assert "small" not in text
    small = compose({**FACTS, "schedule": "small"}, RESULTS, [], [], tmp_path)
    assert "**Too small to compare.**" in small
    assert ["", "**this backbone, too small to compare**"] in [row[:2] for row in cells(small)]
    assert "Not run" not in small


def test_the_page_holds_its_pictures_and_the_terminal_none(tmp_path):
    (tmp_path / "pictures").mkdir()
    file = tmp_path / "pictures" / "a.png"
    Image.new("RGB", (3, 2), "red").save(file)
    picture = Picture(file, "Some picture", "What it shows.")
    text = compose(FACTS, RESULTS, [], [picture], tmp_path)
    write_report(text, tmp_path)
    assert (tmp_path / "report.md").read_text() == text
    assert "![Some picture](pictures/a.png)" in text
    page = (tmp_path / "report.html").read_text()
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == 1
    assert sources[0].startswith("data:image/png;base64,iVBOR")
    assert page.count("<table>") == len(re.findall(r"(?m)^\| ---", text))
    assert "<title>Downstream tasks with run/epoch_9.pth</title>" in page
    assert "What it shows." in page
    told = tables_only(text)
    assert "![" not in told
    assert "What it shows" not in told
    assert cells(told) == cells(text)


def coco(folder: Path, score: float) -> dict:
    """A result of detection: three images of which two were tested, each with one object."""
    for i in range(3):
        Image.new("RGB", (40, 30), "white").save(folder / f"{i}.png")
    box = {"category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
    box["segmentation"] = [[5, 5, 25, 5, 25, 25, 5, 25]]
    truth = {
        "info": {},
        "images": [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in range(3)],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{**box, "id": i + 1, "image_id": i} for i in range(3)],
    }
    found = [{"image_id": i, "category_id": 1, "bbox": box["bbox"], "score": score} for i in (0, 1)]
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "found.json").write_text(json.dumps(found))
    return {
        **MADE,
        "task": "coco",
        "dataset": "coco",
        "figures": {},
        "truth": str(folder / "truth.json"),
        "found": {"bbox": str(folder / "found.json")},
        "images": str(folder),
        "test_images": 2,
    }


def widest_page(folder: Path) -> Path:
    """The page with all columns and the longest of the recipes' names."""
    recipe = "`mocov2-linear-highpass_resnet50_1xb256-steplr-100e_caltech101.py`"
    figures = dict.fromkeys((*LINEAR.columns, *DETECTION.columns), 81.23)
    results = {**RESULTS, "voc": {**RESULTS["voc"], "figures": figures}}
    results = {name: {**each, "recipe": recipe[1:-1]} for name, each in results.items()}
    facts = {**FACTS, "schedule": "small"}
    write_report(compose(facts, results, [], [], folder), folder)
    return folder / "report.html"


def test_cells_break_lines_and_figures_do_not(tmp_path):
    page = widest_page(tmp_path).read_text()
    style = page.partition("<style>")[2].partition("</style>")[0]
    nowrap = re.findall(r"([^{}]+)\{[^{}]*white-space: nowrap", style)
    assert [selector.strip() for selector in nowrap] == ['td[style*="right"]']
    figures = re.findall(r'<td style="text-align: right;">(?:<strong>)?([^<]*)', page)
    assert len(figures) > 100
    assert max(map(len, figures)) <= len("100.0 (resumed)")


@pytest.mark.parametrize("width", [1300, 1600])
def test_nothing_scrolls_sideways_on_a_laptop(tmp_path, width):
    overflow = measure(widest_page(tmp_path), width)
    assert len(overflow) == 6  # tables and the page itself
    assert max(overflow) <= 0


def test_on_a_phone_tables_scroll_and_the_page_does_not(tmp_path):
    *tables, page = measure(widest_page(tmp_path), 400)
    assert max(tables) > 0
    assert page <= 0


def test_a_table_sorts_by_the_column_that_is_clicked(tmp_path):
    rows = [["a10", "9.5"], ["b", ""], ["a9", "10.25 (resumed)"], ["c", "-1"]]
    write_report(f"# Page\n\n{markdown_table(['name', 'figure'], rows)}", tmp_path)
    script = """
    const names = () => [...document.querySelectorAll("td:first-child")].map(e => e.innerText);
    const [name, figure] = document.querySelectorAll("th");
    const told = [];
    for (const head of [figure, figure, name]) {
      head.click();
      told.push([names().join(), name.ariaSort, figure.ariaSort].join(":"));
    }
    document.title = told.join(" ");
    """
    assert in_browser(tmp_path / "report.html", 1600, script).split() == [
        "c,a10,a9,b::ascending",
        "a9,a10,c,b::descending",
        "a10,a9,b,c:ascending:",
    ]


@pytest.mark.parametrize("width", [400, 1600])
def test_a_picture_that_is_clicked_is_shown_at_full_size(tmp_path, width):
    Image.new("RGB", (1800, 1200), "red").save(tmp_path / "wide.png")
    write_report("# Page\n\n![wide](wide.png)\n", tmp_path)
    script = """
    const [picture] = document.images, box = document.querySelector("dialog");
    addEventListener("load", () => {
      const told = [box.open, picture.clientWidth <= innerWidth];
      picture.click();
      const page = document.documentElement;
      told.push(box.open, document.images[1].naturalWidth, document.images[1].clientWidth);
      told.push(box.getBoundingClientRect().width <= innerWidth);
      told.push(page.scrollWidth <= page.clientWidth);
      box.click();
      document.title = [...told, box.open].join(" ");
    });
    """
    told = in_browser(tmp_path / "report.html", width, script)
    assert told == "false true true 1800 1800 true true false"


def test_the_page_needs_no_other_file(tmp_path):
    page = widest_page(tmp_path).read_text()
    assert not re.findall(r"""(?:src|href|url\()\s*=?\s*["']?(?!data:)[^\s>]*\.\w+""", page)
    assert "<link" not in page
    assert "@import" not in page


def test_only_the_tested_images_count(tmp_path):
    result = coco(tmp_path, 0.5)
    evaluation = detection_evaluations(result)["bbox"]
    assert evaluation.stats[0] == pytest.approx(1)
    everything = detection_evaluations({**result, "test_images": 3})["bbox"]
    assert everything.stats[0] == pytest.approx(np.mean(np.linspace(0, 1, 101) <= 2 / 3))


def test_curves_that_lie_on_the_axes_are_left_out_with_a_sentence(tmp_path):
    (tmp_path / "photos").mkdir()
    good = coco(tmp_path / "photos", 0.5)
    nothing = tmp_path / "nothing.json"
    elsewhere = [{"image_id": 0, "category_id": 1, "bbox": [30, 20, 5, 5], "score": 0.9}]
    nothing.write_text(json.dumps(elsewhere))
    missed = {**good, "task": "voc", "dataset": "voc", "found": {"bbox": str(nothing)}}

    def curves(folder: str, **results: dict) -> Picture:
        pictures = draw_pictures(results, tmp_path / folder)
        (found,) = (each for each in pictures if each.title == "Precision and recall")
        return found

    both = curves("both", coco=good, voc=missed)
    told = "at AP50 below 1 % a curve lies on the axes: VOC, boxes (0.00 %)."
    assert both.caption.endswith(told)
    alone = curves("good", coco=good)
    assert Image.open(both.file).size == Image.open(alone.file).size  # one of two curves
    assert "Left out" not in alone.caption
    none = curves("none", voc=missed)
    assert none.file is None
    text = compose(FACTS, {}, [], [none], tmp_path)
    assert "## Precision and recall\n\nLeft out, because " in text
    assert "![" not in text


def test_every_result_with_files_gets_its_picture(tmp_path):
    Image.fromarray(np.ones((30, 40), np.uint8)).save(tmp_path / "map.png")
    (tmp_path / "photos").mkdir()
    results = {
        "linear-caltech101": RESULTS["linear-caltech101"],
        "knn-caltech101": {
            **RESULTS["knn-caltech101"],
            "embedding": {"points": [[0, 1], [2, 3]], "labels": [0, 1], "classes": ["a", "b"]},
        },
        "coco": coco(tmp_path / "photos", 0.5),
        "seg-voc": {
            **RESULTS["seg-voc"],
            "shown": {
                "photos": [tmp_path / "photos" / "0.png"],
                **{side: [tmp_path / "map.png"] for side in ("truth", "found")},
                "classes": ["ground", "cat"],
                "palette": [[0, 0, 0], [255, 0, 0]],
            },
        },
    }
    pictures = draw_pictures(results, tmp_path / "pictures")
    assert [picture.title for picture in pictures] == [
        "Precision and recall",
        "t-SNE of Caltech-101",
        "Found on COCO",
        "Segmentation of VOC",
    ]
    assert all(Image.open(picture.file).size[0] > 100 for picture in pictures)
    assert len({picture.file for picture in pictures}) == 4


def test_a_test_set_without_objects_is_told_instead_of_drawn(tmp_path):
    result = coco(tmp_path, 0.5)
    truth = json.loads(Path(result["truth"]).read_text())
    Path(result["truth"]).write_text(json.dumps({**truth, "annotations": []}))
    found = draw_pictures({"coco": result}, tmp_path / "pictures")[-1]
    assert (found.file, found.caption) == (None, "The test images show no object that counts.")
