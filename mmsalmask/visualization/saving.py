"""Pictures that appear whole or not at all."""

import io
from pathlib import Path

from matplotlib.figure import Figure

from mmsalmask.files import write_atomically


def save_figure(figure: Figure, picture: Path) -> None:
    """Write a figure as PNG.

    Raises:
        NotWritten: as :func:`mmsalmask.files.write_atomically`.
    """
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomically(picture, content.getvalue())
