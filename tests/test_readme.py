"""Rendered tables are up to date, pictures are clean and say what they show."""

import numpy as np
import pretrain_cost
import pytest
import readme_picture
import render as tables
from matplotlib.figure import Figure
from PIL import Image
from render import FILES, ROOT, render, rendered


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_tables_show_the_data_they_are_rendered_from(file):
    written = file.read_text()
    assert rendered(file) == written
    assert written.count("<!-- table:") == written.count("<!-- end -->") >= 1


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
