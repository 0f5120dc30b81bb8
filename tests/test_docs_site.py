"""Links of the docs work in the repository and on the site."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import site_pages  # noqa: E402

PAGE = ROOT / "docs" / "masks.md"


@pytest.mark.parametrize(
    ("written", "on_the_site"),
    [
        ("[a](study.md#what-was-found)", "[a](study.md#what-was-found)"),
        ("[a](../configs/moco/README.md#ingredients)", "[a](recipes/moco.md#ingredients)"),
        ("[a](../configs/moco)", "[a](recipes/moco.md)"),
        ("[a](../CHANGELOG.md)", "[a](project/changelog.md)"),
        ("[a](../README.md)", "[a](index.md)"),
        ("[`a [b]`](../requirements.txt)", "[`a [b]`](../requirements.txt)"),
        ("[a](../benchmarks) b", "a b"),
        ("[a](https://arxiv.org/abs/2309.12757)", "[a](https://arxiv.org/abs/2309.12757)"),
        ("[a](#where)", "[a](#where)"),
        ("`[a](../configs/moco)`", "`[a](../configs/moco)`"),
        ("```\n[a](../nowhere)\n```\n[b](../configs/adios)", None),
        ("![a](masks.png) [b](masks.md)", "![a](masks.png) [b](masks.md)"),
    ],
)
def test_a_link_leads_to_the_page_of_its_file(written, on_the_site):
    if on_the_site is None:
        on_the_site = "```\n[a](../nowhere)\n```\n[b](recipes/adios.md)"
    assert site_pages.relink(written, PAGE, PAGE) == on_the_site


def test_links_of_a_readme_are_those_of_its_page():
    file = ROOT / "configs" / "moco" / "README.md"
    page = site_pages.elsewhere()[file]
    text = site_pages.relink("[a](../../docs/study.md) [b](../adios/README.md)", file, page)
    assert text == "[a](../study.md) [b](adios.md)"


def test_a_link_that_leads_nowhere_is_told(monkeypatch):
    told = []
    monkeypatch.setattr(site_pages.LOG, "warning", lambda text, *names: told.append(text % names))
    assert site_pages.relink("[a](gone.md#x)", PAGE, PAGE) == "a"
    assert told == ["docs/masks.md links to gone.md#x, which is not there"]


def test_sizes_of_sets_in_docstrings_are_no_substitutions():
    lines = ["⌊r·|FG|⌋ of ``a | b``"]
    site_pages.escape_bars(None, "function", "f", None, None, lines)
    assert lines == ["⌊r·\\|FG\\|⌋ of ``a | b``"]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_the_first_pages_are_short_and_their_links_lead_somewhere(name):
    text = (ROOT / name).read_text()
    assert text.count("\n") <= 150
    for path, anchor in re.findall(r"\]\(([^)#:]+)(?:#([^)]+))?\)", text):
        assert (ROOT / path).exists(), path
        headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), re.M) if anchor else []
        slugs = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
        assert not anchor or anchor in slugs, f"{path}#{anchor}"
