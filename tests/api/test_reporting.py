"""The page of a pretraining: what it tells, and that it stands alone."""

import re
import shutil

import pytest
from browser import measure

import mmsalmask as sm
from mmsalmask.commands import report as command
from mmsalmask.errors import InputError


def told(page) -> dict[str, str]:
    """Heading → what stands below it, pictures and tags left out."""
    text = re.sub(r'src="data:[^"]*"', 'src="data:"', page.read_text())
    return dict(zip(*[iter(re.split(r"<h2>(.*?)</h2>", text)[1:])] * 2, strict=True))


@pytest.fixture(scope="module")
def page(run, images, tmp_path_factory):
    file = tmp_path_factory.mktemp("report") / "page.html"
    return sm.report(run, images, file, workers=0)


def test_it_tells_what_was_trained_and_whether_it_is_any_good(page, run):
    parts = told(page)
    assert list(parts) == [
        "Curves",
        "Masks",
        "Is it any good?",
        "Nearest neighbours",
        "Warnings",
        "The whole config",
    ]
    text = page.read_text()
    assert f"<h1>Pretraining {run.folder.name}</h1>" in text
    for fact in ("mmsalmask.MaskedMoCo", "ResNet 18", "2 of 2", run.checkpoint.name):
        assert fact in text
    assert "(24 images, no labels)" in parts["Is it any good?"]
    assert "relative_alignment" in parts["Is it any good?"]
    assert parts["Nearest neighbours"].count("<img") == 1
    assert "max_epochs=2" in parts["The whole config"]


def test_masks_are_shown_from_the_first_to_the_newest(run, page):
    drawn = {file.stem for file in (run.folder / "masks").glob("*.png")}
    shown = re.findall('alt="(.*?)"', told(page)["Masks"])
    assert shown
    assert set(shown) <= drawn
    newest = max((run.folder / "masks").glob("*.png"), key=lambda file: file.stat().st_mtime_ns)
    assert shown[-1] == newest.stem


def test_warnings_of_the_logs_are_counted(run, tmp_path):
    (log,) = run.folder.glob("*/*.log")
    before = log.read_text()
    line = "11/26 - mmengine - WARNING - embeddings collapse | look\n"
    try:
        log.write_text(before + 3 * line)
        page = sm.report(run, file=tmp_path / "page.html")
    finally:
        log.write_text(before)
    found = re.search(r"collapse \| look</td>\s*<td[^>]*>(\d+)<", told(page)["Warnings"])
    assert found[1] == "3"
    assert "Is it any good?" not in told(page)  # nobody gave images


def test_names_and_warnings_are_shown_as_they_are(run, tmp_path):
    named = shutil.copytree(run.folder, tmp_path / "run <a> *b*")
    (log,) = named.glob("*/*.log")
    log.write_text("11/26 - mmengine - WARNING - give <class>/<image>, *not* __all__\n")
    page = sm.report(named)
    for tag in ("h1", "title"):
        assert f"<{tag}>Pretraining run &lt;a&gt; *b*</{tag}>" in page.read_text()
    assert "<td>give &lt;class&gt;/&lt;image&gt;, *not* __all__</td>" in told(page)["Warnings"]


@pytest.mark.parametrize("width", [400, 1600])
def test_nothing_is_wider_than_the_window(page, width):
    assert measure(page, width)[-1] <= 0


def test_the_page_needs_no_other_file(page):
    assert not re.findall(r'src="(?!data:)', page.read_text())


def test_the_command_writes_the_page_beside_the_run(run, capsys):
    command.main([str(run.folder)])
    assert capsys.readouterr().out == f"report: {run.folder / 'report.html'}\n"
    assert (run.folder / "report.html").is_file()


def test_a_run_without_curves_is_told(run, tmp_path):
    shutil.copy(run.checkpoint, tmp_path)
    with pytest.raises(InputError, match="has no curves yet"):
        sm.report(tmp_path)


def test_the_checkpoint_is_checked_once(run, images, tmp_path, monkeypatch):
    """Its digest is of the whole file, which may have hundreds of megabytes."""
    checked = []
    monkeypatch.setattr("mmsalmask.api.run.why_damaged", checked.append)
    sm.report(run, images, tmp_path / "page.html", workers=0)
    assert len(checked) == 1


def test_a_number_of_images_that_is_none_is_told(run, images):
    with pytest.raises(InputError, match="images"):
        sm.report(run, images, images=0)


def test_a_folder_without_a_run_is_told(tmp_path):
    with pytest.raises(InputError, match="holds no whole checkpoint"):
        sm.report(tmp_path)
