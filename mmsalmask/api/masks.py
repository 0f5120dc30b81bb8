"""What a method masks of one's own images, before anything is trained."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.dataset import Compose, default_collate
from mmengine.registry import DefaultScope
from PIL import Image

from mmsalmask.api.images import Data, image_paths
from mmsalmask.api.recipes import find_recipe, set_localizer, set_size
from mmsalmask.api.run import picture_figure
from mmsalmask.checks import check_integer
from mmsalmask.config import load_config, override
from mmsalmask.data import BrokenImage
from mmsalmask.errors import InputError, some_names
from mmsalmask.registry import MODELS
from mmsalmask.visualization.gallery import draw_gallery


def show_masks(
    data: Data,
    method: str = "mocov2-salmask-highpass",
    images: int = 6,
    size: int = 224,
    localizer: Mapping[str, Any] | str | None = None,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Figure:
    """Draw views, saliency, foreground, masks and hard negatives of some images.

    Args:
        data: images as for :func:`mmsalmask.pretrain`.
        method: one of :func:`mmsalmask.list_methods` that masks.
        images: rows, drawn from the data by the seed.
        size: of the views, in pixels.
        localizer: its config, or the name of its class, instead of the recipe's.
        overrides: of config keys, by dotted path, e.g.
            ``{"model.data_preprocessor.masker.grid": 14}``.
        seed: of images, views and masks; the global random streams are left as they were.

    Raises:
        InputError: the method masks nothing or learns its masks, or no image can be read.

    Example:
        >>> import mmsalmask as sm
        >>> figure = sm.show_masks(photos, "mocov2-salmask-mean", images=2, size=64)
        >>> figure.savefig(out + "/masks.png")
    """
    check_integer("images", images)
    recipe = find_recipe(method)
    config = load_config(recipe.config)
    settings = config.model.get("data_preprocessor") or config.get("data_preprocessor") or {}
    if settings.get("masker") is None:
        learned = config.model.get("mask_net") is not None
        raise InputError(
            f"{method} "
            + ("learns its masks, there are none before training" if learned else "masks nothing")
            + ": give a method with salmask, mscn, mixmask or objectcrops in its name"
        )
    set_size(config, check_integer("size", size))
    set_localizer(config, localizer)
    override(config, dict(overrides or {}))
    settings = config.model.get("data_preprocessor") or config.get("data_preprocessor")
    with _seeded(seed), DefaultScope.overwrite_default_scope("mmpretrain"), torch.no_grad():
        preprocessor = MODELS.build(settings)
        seen: list[Any] = []
        preprocessor.masker.register_forward_hook(lambda _, *both: seen.append(both))
        preprocessor(_batch(data, config.train_dataloader.dataset.pipeline, images), training=True)
    (query, key, *_), masked = seen[0]
    with TemporaryDirectory() as folder:
        file = Path(folder) / "masks.png"
        draw_gallery(query, key, masked, preprocessor, file, images)
        return picture_figure(Image.open(file).convert("RGB"))


def _batch(data: Data, pipeline: list, images: int) -> dict:
    paths = image_paths(data)
    random.shuffle(paths)
    if pipeline[0]["type"] == "LoadImageFromFile":  # mmpretrain's, which fails on a broken image
        pipeline = [dict(type="mmsalmask.LoadImage"), *pipeline[1:]]
    make = Compose(pipeline)
    items: list[dict] = []
    for path in paths:
        try:
            items.append(make({"img_path": path, "sample_idx": len(items)}))
        except BrokenImage:
            continue
        if len(items) == images:
            break
    if not items:
        raise InputError(f"none of the {len(paths)} images can be read ({some_names(paths, 2)})")
    return default_collate(items)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed all global random streams for a while."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
