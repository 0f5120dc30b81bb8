"""Pages in a headless browser, where there is one."""

import re
import shutil
import subprocess
from html import escape
from pathlib import Path

import pytest


def measure(page: Path, width: int) -> list[int]:
    """By how many pixels each table, and then the page, is wider than its place in a window."""
    script = """
    const all = [...document.querySelectorAll('table'), document.documentElement];
    document.title = all.map(e => e.scrollWidth - e.clientWidth).join(' ');
    """
    return [int(each) for each in in_browser(page, width, script).split()]


def in_browser(page: Path, width: int, script: str) -> str:
    """The title that a script gives a page in a place of so many pixels.

    A frame, since the window of a headless browser does not get narrower than some 500 pixels.
    """
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no chromium to lay the page out")
    content = page.read_text().replace("</html>", f"<script>{{{script}}}</script></html>")
    frame = page.with_name(f"{page.stem} in a frame.html")
    frame.write_text(
        '<!doctype html><meta charset="utf-8"><title></title>'
        f'<iframe style="width:{width}px; height:900px; border:0" '
        f'srcdoc="{escape(content)}"></iframe>'
        "<script>const inner = document.querySelector('iframe'); inner.onload = () => "
        "document.title = inner.contentWindow.innerWidth + ' ' + inner.contentDocument.title;"
        "</script>"
    )
    command = [
        *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
        *("--window-size=1700,900", f"--user-data-dir={page.parent / 'browser'}"),
        frame.as_uri(),
    ]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stderr
    laid_out, _, title = re.search("<title>(.*?)</title>", told.stdout)[1].partition(" ")
    assert laid_out == str(width)
    return title
