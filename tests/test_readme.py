"""Rendered tables are up to date."""

import pytest
import render as tables
from render import FILES, render


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_tables_show_the_data_they_are_rendered_from(file):
    written = file.read_text()
    assert render(written) == written
    assert written.count("<!-- table:") == written.count("<!-- end -->") >= 2


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
