"""Published tables, and tables of figures as Markdown."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mmsalmask.errors import InputError

PUBLISHED = Path(__file__).with_name("published")


class Published(NamedTuple):
    """Columns of a published table.

    Attributes:
        file: its name in the folder ``published``.
        place: where the table stands in the paper.
        columns: titles by the file's names of columns.
    """

    file: str
    place: str
    columns: Mapping[str, str]


def read_table(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """The rows of a CSV file of published figures.

    Raises:
        InputError: the file is missing, empty or without a column ``method`` or one of these.
    """
    if not path.is_file():
        raise InputError(f"there is no table {path}: give the published rows with --published")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or {"method", *columns} - set(rows[0]):
        raise InputError(f"{path} needs the columns method, {', '.join(columns)}")
    return rows


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table whose first columns are left-aligned and whose others are figures.

    A ``|`` in a cell stays in it.

    >>> print(markdown_table(["dataset", "top-1 %"], [["Caltech-101", "81.23"]]), end="")
    | dataset | top-1 % |
    | --- | ---: |
    | Caltech-101 | 81.23 |
    """
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    cells = ([cell.replace("|", r"\|") for cell in row] for row in (header, rule, *rows))
    lines = "\n".join("| " + " | ".join(row) + " |" for row in cells)
    return lines + "\n"
