"""Rendered tables are up to date."""

import pytest
from render import FILES, render


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_tables_show_the_data_they_are_rendered_from(file):
    written = file.read_text()
    assert render(written) == written
    assert written.count("<!-- table:") == written.count("<!-- end -->") >= 2
