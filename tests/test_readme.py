"""Rendered tables are up to date, pictures are clean and say what they show."""

import re

import numpy as np
import pretrain_cost
import pytest
import readme_picture
import render as tables
from matplotlib.figure import Figure
from PIL import Image
from recipes import ROOT, metafiles, models
from render import FILES, PAGES, render


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_pages_show_the_data_they_are_rendered_from(file):
    written = file.read_text()
    assert PAGES[file](file) == written
    tables = written.count("<!-- table:")
    assert tables == written.count("<!-- end -->")
    assert tables >= (file in FILES or file.name == "README.md")


def test_a_page_that_says_something_else_than_its_config_is_told(tmp_path, monkeypatch, capsys):
    """A batch size changed by hand, in a metafile and in a table; main() names the first file."""
    for file, former, changed in (
        (ROOT / "configs/moco/metafile.yml", "Batch Size: 128", "Batch Size: 64"),
        (ROOT / "configs/moco/README.md", "| 4 × 32 |", "| 4 × 16 |"),
    ):
        copy = tmp_path / file.name
        copy.write_text(file.read_text().replace(former, changed))
        text = PAGES[file](file)
        monkeypatch.setattr(tables, "PAGES", {copy: lambda path, text=text: text})
        monkeypatch.setattr("sys.argv", ["render.py", "--check"])
        with pytest.raises(
            SystemExit, match=r"is not up to date: run python benchmarks/render\.py"
        ):
            tables.main()
        monkeypatch.setattr("sys.argv", ["render.py"])
        tables.main()
        assert copy.read_text() == file.read_text()


def test_what_a_name_says_of_epochs_and_iterations_is_what_the_config_says():
    told = 0
    for model in (model for metafile in metafiles() for model in models(metafile)):
        length = model["Metadata"].get("Epochs"), model["Metadata"].get("Iterations")
        match = re.search(r"-(\d+)(e|k)_", model["Name"])
        if match:
            number = int(match[1])
            assert length == ((number, None) if match[2] == "e" else (None, 1000 * number)), model
            told += 1
    assert told > 50


def test_marks_in_code_are_an_example_and_links_lead_from_the_page():
    marks = "<!-- table: model zoo -->\n<!-- end -->\n"
    text = render(f"```\n{marks}```\n{marks}", "../")
    example, table = text.split("```\n")[1:]
    assert example == marks
    assert table.count("](../configs/imagenette/") == table.count("](../weights/") > 3


ORIGIN = dict(command="python x.py", commit="abc", hardware="2 cores", torch="2.11.0")


def test_an_hour_and_low_precision_have_tables(monkeypatch):
    scaled = dict(steps=2015, batch=32, not_finite=0, loss_first=5.2, loss_last=3.1, **ORIGIN)
    hour = dict(minutes=60.0, iterations=12345, memory_mb=801.4, memory_mb_per_hour=-0.26)
    hour |= dict(open_files=27, open_files_per_hour=0.0)
    hour |= dict(throughput_last_over_first=0.987, machine_last_over_first=0.94)
    data = {
        "endurance": {**hour, **ORIGIN},
        "precision float16": dict(dtype="float16", device="H100", loss_scale=65536.0, **scaled),
        "precision bfloat16": dict(dtype="bfloat16", device="CPU", loss_scale=None, **scaled),
    }
    monkeypatch.setattr(tables, "result", lambda name: data)
    rendered = render("<!-- table: endurance -->\n<!-- end -->")
    assert "| 60 minutes, 12,345 iterations |" in rendered
    assert "| 801 MB, -0.3 MB per hour |" in rendered
    assert "| 98.7 % |" in rendered
    assert "| 94.0 % |" in rendered
    assert "| 105.0 % |" in rendered
    rendered = render("<!-- table: precision -->\n<!-- end -->")
    assert "| float16 | H100 | 2,015 | 32 | 0 | 5.20 → 3.10 | 65,536 |" in rendered
    assert "| bfloat16 | CPU | 2,015 | 32 | 0 | 5.20 → 3.10 |  |" in rendered
    assert rendered.count("`python x.py`") == 2


# ----------------------------------------------------------------------------------- the pictures


def test_the_picture_of_the_masks_is_in_true_colours_and_small_enough():
    file = ROOT / "docs" / "masks.png"
    with Image.open(file) as picture:
        assert picture.mode == "RGB"
        assert len(picture.getcolors(1 << 24)) > 10_000
    assert file.stat().st_size < 600_000


def test_making_the_picture_smaller_changes_no_pixel(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    readme_picture.shrink(tmp_path / "noise.png")
    assert (np.asarray(Image.open(tmp_path / "noise.png")) == pixels[..., :3]).all()


def test_a_bar_that_is_cut_shows_a_gap_and_its_number(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    rows = {"plain": (1.0, 1.0), "ADIOS": (8.73, 1.82), "mean, online": (2.1, 1.36)}
    rows = {n: dict(ratio=r, paper=p, shares=None) for n, (r, p) in rows.items()}
    pretrain_cost.draw(rows, "title", str(tmp_path / "chart.png"))
    (axes,) = figures[0].axes
    end, cut = axes.get_xlim()[1], 1  # rows are drawn from below
    assert end < 8.73
    gaps = [patch.get_xy() for patch in axes.patches if hasattr(patch, "get_closed")]
    assert len(gaps) == 2
    for corners in gaps:
        assert (abs(corners[:, 1] - cut) < 0.5).all()
        assert abs(corners[:, 1] - cut).max() > 0.35  # through the whole bar
        assert 0.9 * end < corners[:, 0].min() < corners[:, 0].max() < end
    numbers = {text.get_text(): text.get_position() for text in axes.texts}
    x, y = numbers["8.73"]
    assert (0.8 * end < x < end, y) == (True, cut)
    assert "2.10" not in numbers
