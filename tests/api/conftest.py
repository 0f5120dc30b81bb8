"""A tiny run, made once, of photos of a few colours."""

from pathlib import Path

import pytest
from api_photos import TINY, draw

import mmsalmask as sm


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    return draw(tmp_path_factory.mktemp("api") / "images", 24)


@pytest.fixture(scope="session")
def run(images, tmp_path_factory) -> sm.Run:
    """Two epochs of two steps of a net of eight channels at 32 px."""
    out = tmp_path_factory.mktemp("api") / "run"
    options = dict(backbone="resnet18", size=32, epochs=2, batch_size=12, overrides=TINY)
    return sm.pretrain(images, out, **options)
