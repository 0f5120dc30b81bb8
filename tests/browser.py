"""Pages in a headless browser, where there is one."""

import re
import shutil
import subprocess
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
    """The title that a script gives a page in a window of so many pixels."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no chromium to lay the page out")
    page.write_text(page.read_text().replace("</html>", f"<script>{{{script}}}</script></html>"))
    command = [
        *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
        *(f"--window-size={width},900", f"--user-data-dir={page.parent / 'browser'}"),
        page.as_uri(),
    ]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stderr
    return re.search("<title>(.*?)</title>", told.stdout)[1]
