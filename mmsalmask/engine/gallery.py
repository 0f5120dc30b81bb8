"""The mask gallery: a row per image, from the view to what the encoders see."""

import io
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from mmsalmask.engine.safe_checkpoint import write_atomically
from mmsalmask.masking import HighPassNoise, MaskedViews, to_pixels

# High-pass views are faint around zero; shown on grey, with their contrast raised.
_HIGH_PASS_CONTRAST = 2.0


def draw_gallery(
    query: Tensor,
    key: Tensor,
    masked: MaskedViews,
    preprocessor,
    path: str | Path,
    images: int = 6,
) -> None:
    """Draw views, saliency, foreground and masks of a batch as a PNG.

    Args:
        query, key: normalised views as they entered the masker, (N, 3, H, W).
        masked: what the masker made of them.
        preprocessor: gives mean and std, and the masker's strategy.
        path: of the PNG; folders are made.
        images: rows at the most.
    """
    columns = _columns(query, key, masked, preprocessor)
    rows = min(images, len(query))
    side = 1.35
    figure = Figure(figsize=(side * len(columns), side * rows + 0.3), dpi=140)
    axes = figure.subplots(
        rows, len(columns), squeeze=False, gridspec_kw=dict(wspace=0.04, hspace=0.04)
    )
    for column, (title, pictures, style) in enumerate(columns):
        axes[0, column].set_title(title, fontsize=8)
        for row in range(rows):
            axes[row, column].imshow(pictures[row], **style)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(False)
    picture = io.BytesIO()
    with matplotlib.rc_context({"savefig.facecolor": "white"}):
        figure.savefig(picture, format="png", bbox_inches="tight", pad_inches=0.05)
    write_atomically(path, picture.getvalue())


def _columns(query, key, masked: MaskedViews, preprocessor) -> list[tuple[str, np.ndarray, dict]]:
    """(title, pictures, how imshow is to show them) from left to right."""
    seen = isinstance(preprocessor.masker.strategy, HighPassNoise)

    def photo(views: Tensor, filtered: bool = False) -> np.ndarray:
        return _to_rgb(views, preprocessor, filtered)

    columns = [("query view", photo(query), {})]
    if masked.query_saliency is not None:
        saliency = masked.query_saliency.float().cpu().numpy()
        columns.append(("saliency", saliency, dict(cmap="magma")))
        columns.append(("foreground", _dim(photo(query), masked.query_foreground), {}))
    columns.append(("encoded query", photo(masked.query, seen), {}))
    columns.append(("key view", photo(key), {}))
    if masked.key_foreground is not None and masked.hard_negatives:
        columns.append(("foreground", _dim(photo(key), masked.key_foreground), {}))
    columns.append(("encoded key", photo(masked.key, seen), {}))
    for number, view in enumerate(masked.hard_negatives, 1):
        which = f" {number}" if len(masked.hard_negatives) > 1 else ""
        columns.append((f"hard negative{which}", photo(view, seen), {}))
    return columns


def _to_rgb(views: Tensor, preprocessor, filtered: bool) -> np.ndarray:
    """Normalised views → (N, H, W, 3) in [0, 1]."""
    mean, std = (x.view(3, 1, 1).float().to(views.device) for x in _statistics(preprocessor))
    pixels = views.float() * std
    pixels = pixels * _HIGH_PASS_CONTRAST + 127.5 if filtered else pixels + mean
    return (pixels / 255).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()


def _statistics(preprocessor) -> tuple[Tensor, Tensor]:
    if preprocessor._enable_normalize:
        return preprocessor.mean, preprocessor.std
    return torch.zeros(3), torch.ones(3)


def _dim(photos: np.ndarray, where: Tensor) -> np.ndarray:
    """Darken what is background."""
    pixels = to_pixels(where[:, None], photos.shape[1:3])[:, 0].cpu().numpy()
    return photos * np.where(pixels, 1.0, 0.25)[..., None]
