"""The legend of a gallery."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmsalmask.visualization import gallery
from mmsalmask.visualization.gallery import Column, cover_background, draw_columns


@pytest.fixture
def texts(monkeypatch) -> list[str]:
    """All that is written on the pictures that a test draws."""
    found = []

    class Kept(gallery.Figure):
        def savefig(self, *arguments, **options):
            found.extend(text.get_text() for text in self.texts)
            super().savefig(*arguments, **options)

    monkeypatch.setattr(gallery, "Figure", Kept)
    return found


@pytest.mark.parametrize("legend", ["", "MeanFill, 7×7 patches " * 10])
def test_the_legend_says_what_purple_means_where_there_is_some(tmp_path, texts, legend):
    photos = np.full((2, 32, 32, 3), 0.8)
    view = Column("view", photos)
    hidden = cover_background(photos, torch.zeros(2, 4, 4, dtype=torch.bool))
    purple = (255 * hidden[0, 0, 0]).round()

    def count_purple(name: str, *columns: Column) -> int:
        draw_columns([("", list(columns))], (32, 32), tmp_path / name, legend)
        pixels = np.asarray(Image.open(tmp_path / name).convert("RGB")).astype(float)
        return (abs(pixels - purple).max(-1) < 3).sum()

    foreground = Column("foreground", np.zeros_like(photos), (4, 4), covered=True)
    assert count_purple("with.png", view, foreground) > 100
    assert texts.count("purple covers the background") == 1
    assert count_purple("without.png", view, view) == 0
    assert texts.count("purple covers the background") == 1
