"""Pages of the site that stand elsewhere in the repository, and links that work in both places.

On the site, as in the repository, a link is relative to the file that it stands in. Here links to
files that have a page lead there, and links to other files of the repository download them.
"""

import os
import re
from pathlib import Path

from sphinx.util import logging

LOG = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
LINK = re.compile(r"(?<!\!)\[([^\]\[]*(?:\[[^\]]*\][^\]\[]*)*)\]\(([^)\s]+)\)")
# In code, [a](b) is no link.
CODE = re.compile(r"(^(```+|~~~+).*?^\2[ \t]*$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
WRITTEN = {"project": ("CHANGELOG.md", "CONTRIBUTING.md"), "recipes": ("configs/*/README.md",)}


def elsewhere() -> dict[Path, Path]:
    """Files of the repository that become pages, and where."""
    pages = {}
    for folder, patterns in WRITTEN.items():
        for pattern in patterns:
            for file in sorted(ROOT.glob(pattern)):
                name = file.parent.name if file.name == "README.md" else file.stem.lower()
                pages[file] = DOCS / folder / f"{name}.md"
    return pages


def write() -> None:
    """Write those pages anew where they have changed; pages of files that are gone go."""
    pages = elsewhere()
    for folder in WRITTEN:
        for old in set((DOCS / folder).glob("*.md")) - set(pages.values()):
            if old.name != "index.md":
                old.unlink()
    for file, page in pages.items():
        text = relink(file.read_text(encoding="utf-8"), file, page)
        page.parent.mkdir(exist_ok=True)
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def mend_links(app, name: str, source: list[str]) -> None:
    """Let the links of a page that is being read lead to pages."""
    page = DOCS / f"{name}.md"
    if page not in set(elsewhere().values()):
        source[0] = relink(source[0], page, page)


def relink(text: str, file: Path, page: Path) -> str:
    """The text of a file with the links that it needs as a page of the site.

    One that leads nowhere is a warning, and so an error of `make docs`.
    """

    def mend(link: re.Match) -> str:
        words, target = link[1], link[2]
        if re.match(r"[a-z+]+:|#", target):
            return link[0]
        path, mark, anchor = target.partition("#")
        found = (file.parent / path).resolve()
        if not found.exists():
            LOG.warning("%s links to %s, which is not there", file.relative_to(ROOT), target)
            return words
        if found.is_dir():
            found = found / "README.md"
            if not found.exists():  # a folder cannot be shown
                return words
        found = elsewhere().get(found, DOCS / "index.md" if found == ROOT / "README.md" else found)
        return f"[{words}]({os.path.relpath(found, page.parent)}{mark}{anchor})"

    parts = CODE.split(text)
    # The pattern has two groups: text, code, its fence, text, code, its fence, …
    return "".join(
        LINK.sub(mend, part) if i % 3 == 0 else part for i, part in enumerate(parts) if i % 3 < 2
    )


def escape_bars(app, what: str, name: str, thing, options, lines: list[str]) -> None:
    """|FG| in a docstring is the size of a set, and no substitution."""
    for number, line in enumerate(lines):
        parts = re.split(r"(``.*?``)", line)
        parts[::2] = [part.replace("|", "\\|") for part in parts[::2]]
        lines[number] = "".join(parts)


def unavailable() -> list[str]:
    """Pages of the reference whose module is not part of this checkout."""
    pages = {"reference/python.md": "mmsalmask/api/encoder.py"}
    return [page for page, module in pages.items() if not (ROOT / module).exists()]
