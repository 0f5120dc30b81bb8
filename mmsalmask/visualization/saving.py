"""Pictures that appear whole or not at all."""

import io
from pathlib import Path

from matplotlib.figure import Figure

from mmsalmask.files import write_atomically


def save_figure(figure: Figure, picture: str | Path) -> None:
    """Write a figure in the format that the picture's name ends with.

    Raises:
        NotWritten: as :func:`mmsalmask.files.write_atomically`.
    """
    content = io.BytesIO()
    figure.savefig(content, format=Path(picture).suffix[1:])
    write_atomically(picture, content.getvalue())
