from render import README, render


def test_tables_of_the_readme_show_the_data_they_are_rendered_from():
    written = README.read_text()
    assert render(written) == written
    assert written.count("<!-- table:") == written.count("<!-- end -->") >= 2
