"""A report as one HTML file that needs no other: tables that sort, pictures that enlarge."""

import base64
import re
from html import escape
from pathlib import Path

from mmsalmask.files import write_atomically

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
body { overflow-wrap: break-word }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #ddd; vertical-align: baseline }
th { cursor: pointer; text-align: left }
th[aria-sort=ascending] { box-shadow: inset 0 2px #36c }
th[aria-sort=descending] { box-shadow: inset 0 -2px #36c }
td[style*="right"] { white-space: nowrap }
td code { overflow-wrap: anywhere } pre { overflow: auto; max-height: 30rem }
img { max-width: 100%; cursor: zoom-in } code { background: #f3f3f3 }
dialog { max-width: 97vw; max-height: 97vh; padding: 0; border: 0; cursor: zoom-out }
dialog img { max-width: none; display: block; cursor: zoom-out }
"""
# A click on a heading sorts by its column, another one in reverse; empty cells stay below. A click
# on a picture shows it at full size. Enter does the same.
_SCRIPT = r"""
const number = text => /^-?\d+(\.\d+)?( |$)/.test(text) ? parseFloat(text) : NaN;
function compare(a, b) {
  const both = number(a) - number(b);
  return isNaN(both) ? a.localeCompare(b) : both;
}
function sortBy(head) {
  const body = head.closest("table").tBodies[0], text = row => row.cells[head.cellIndex].innerText;
  const order = head.ariaSort === "ascending" ? "descending" : "ascending";
  const turn = order === "ascending" ? 1 : -1;
  for (const other of head.parentElement.cells) other.ariaSort = null;
  head.ariaSort = order;
  body.append(...[...body.rows].sort((a, b) =>
    !text(a) - !text(b) || turn * compare(text(a), text(b))));
}
const dialog = document.body.appendChild(document.createElement("dialog"));
dialog.onclick = () => dialog.close();
function enlarge(picture) {
  dialog.replaceChildren(picture.cloneNode());
  dialog.showModal();
}
function onUse(elements, use) {
  for (const element of elements) {
    element.tabIndex = 0;
    element.onclick = () => use(element);
    element.onkeydown = event => { if (event.key === "Enter") use(element); };
  }
}
onUse(document.querySelectorAll("th"), sortBy);
onUse(document.querySelectorAll("img"), enlarge);
"""


def plain(text: str) -> str:
    """Markdown that shows a text as it is, whatever stands in it."""
    return re.sub(r"([\\`*_{}\[\]])", r"\\\1", escape(text, quote=False))


def write_page(text: str, folder: Path, file: Path) -> None:
    """Write Markdown as HTML; the pictures that it names, PNGs below ``folder``, go inside."""
    import markdown

    body = markdown.markdown(text, extensions=["tables", "sane_lists"])
    body = re.sub(r'src="([^"]+)"', lambda found: _inline(folder / found[1]), body)
    title = re.sub("<.*?>", "", body.partition("\n")[0])
    page = (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n{body}\n<script>{_SCRIPT}</script>\n"
        "</html>\n"
    )
    write_atomically(file, page.encode())


def _inline(picture: Path) -> str:
    return f'src="data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"'
