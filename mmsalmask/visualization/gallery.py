"""The mask gallery: a row per image, from the view to what the encoders see."""

import textwrap
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from mmsalmask.errors import InputError
from mmsalmask.masking import MaskedViews, SaliencyMasker, to_pixels
from mmsalmask.visualization.saving import save_figure

# High-pass views are faint around zero; shown on grey, with their contrast raised.
_HIGH_PASS_CONTRAST = 2.0
# The background is covered with a purple that few photos have, dark ones included.
_PURPLE = (0.32, 0.07, 0.42)
_COVERED = "purple covers the background"
# Inches: width of a cell, space between cells, space between query and key, a line of text.
_CELL, _SPACE, _GAP, _LINE = 1.35, 0.05, 0.2, 0.15
_LETTERS_PER_INCH = 19
# Lines between more patches than this would hide the picture.
_LINES_UP_TO = 16


class Column(NamedTuple):
    """Pictures of one kind, ``(N, h, w)`` or ``(N, h, w, 3)`` in [0, 1], and their title.

    ``grid``, rows and columns, asks for lines between the patches. ``covered`` says that they are
    of :func:`cover_background`, which the legend then explains.
    """

    title: str
    pictures: np.ndarray
    grid: tuple[int, int] | None = None
    covered: bool = False


def draw_gallery(
    query: Tensor,
    key: Tensor,
    masked: MaskedViews,
    preprocessor,
    path: str | Path,
    images: int = 6,
) -> None:
    """Draw views, saliency, foreground and masks of a batch as a PNG.

    Columns are, from left to right: the query's view, its saliency, its foreground, what the
    encoder sees of it; the key's view, its foreground, what the encoder sees of it where that is
    another picture, its hard negatives. A line below tells strategy, grid and ratios.

    Args:
        query, key: normalised views as they entered the masker, (N, 3, H, W).
        masked: what the masker made of them. Saliency may have any resolution.
        preprocessor: gives mean, std and order of the channels, and the masker.
        path: of the PNG; folders are made.
        images: the most rows.
    """
    rows = min(images, len(query))
    groups = _columns(query, key, masked, preprocessor, rows)
    draw_columns(groups, tuple(query.shape[-2:]), path, describe(preprocessor.masker))


def draw_columns(
    groups: list[tuple[str, list[Column]]],
    size: tuple[int, int],
    path: str | Path,
    legend: str,
    dpi: int = 140,
) -> None:
    """Draw groups of columns side by side as a PNG, written whole or not at all.

    Args:
        groups: a heading, which may be empty, and the columns below it, all with as many pictures.
        size: H, W in pixels of the views; pictures of other sizes are stretched to it.
        path: of the PNG; folders are made.
        legend: a text below the pictures, and below what the purple of covered columns means.
        dpi: a cell is 1.35 inches wide.
    """
    rows, cell = len(groups[0][1][0].pictures), _CELL * size[0] / size[1]
    number = sum(len(columns) for _, columns in groups)
    width = number * (_CELL + _SPACE) + _SPACE + (len(groups) - 1) * _GAP
    lines = textwrap.wrap(legend, int(width * _LETTERS_PER_INCH))
    covered = any(column.covered for _, columns in groups for column in columns)
    top = (2.6 if any(heading for heading, _ in groups) else 1.3) * _LINE
    height = top + rows * (cell + _SPACE) + _SPACE + (len(lines) + covered + 0.5) * _LINE
    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white")
    left = _SPACE
    for heading, columns in groups:
        middle = left + (len(columns) * (_CELL + _SPACE) - _SPACE) / 2
        figure.text(middle / width, 1 - 1.1 * _LINE / height, heading, ha="center", fontsize=9)
        for column in columns:
            for row in range(rows):
                bottom = height - top - row * (cell + _SPACE) - cell
                place = (left / width, bottom / height, _CELL / width, cell / height)
                _show(figure.add_axes(place), column, row, size)
            figure.axes[-rows].set_title(column.title, fontsize=8, pad=3)
            left += _CELL + _SPACE
        left += _GAP
    figure.text(_SPACE / width, 0.5 * _LINE / height, "\n".join(lines), fontsize=7, color="0.3")
    if covered:
        bottom = (0.5 + len(lines)) * _LINE
        place = (_SPACE / width, bottom / height), 0.1 / width, 0.1 / height
        figure.add_artist(Rectangle(*place, color=_over(np.full(3, 0.8))))
        figure.text(0.2 / width, bottom / height, _COVERED, fontsize=7, color="0.3")
    with matplotlib.rc_context({"savefig.bbox": None, "savefig.dpi": "figure"}):
        save_figure(figure, path)


def _columns(
    query: Tensor, key: Tensor, masked: MaskedViews, preprocessor, rows: int
) -> list[tuple[str, list[Column]]]:
    """The columns of the query and those of the key, without headings."""
    masker = preprocessor.masker
    filtered = masker.strategy.filters

    def photo(views: Tensor, filtered: bool = False) -> np.ndarray:
        return to_photos(views[:rows], preprocessor, filtered)

    of_query, of_key = [Column("query view", photo(query))], [Column("key view", photo(key))]
    if masked.query_saliency is not None:
        of_query.append(Column("saliency", to_heat(masked.query_saliency[:rows])))
    for columns, where in (
        (of_query, masked.query_foreground),
        (of_key, masked.key_foreground if masked.hard_negatives else None),
    ):
        if where is not None:
            dimmed = cover_background(columns[0].pictures, where[:rows])
            columns.append(Column("foreground", dimmed, masker.grid, covered=True))
    for name, columns, view, mask in (
        ("query", of_query, masked.query, masked.query_mask),
        ("key", of_key, masked.key, masked.key_mask),
    ):
        title = f"{'encoded' if mask is None else 'masked'} {name}"
        if filtered or mask is not None:
            columns.append(Column(title, photo(view, filtered)))
    if masked.local_crops is not None:
        for number, crops in enumerate(masked.local_crops.split(len(query))):
            # With a symmetric loss the key is a query, too, and its crops follow.
            turned, of_view = divmod(number, masker.local_crops)
            columns = of_key if turned else of_query
            columns.append(Column(f"local crop {of_view + 1}", photo(crops, filtered)))
    for number, view in enumerate(masked.hard_negatives, 1):
        which = f" {number}" if len(masked.hard_negatives) > 1 else ""
        of_key.append(Column(f"hard negative{which}", photo(view, filtered)))
    return [("", of_query), ("", of_key)]


def describe(masker: SaliencyMasker) -> str:
    """One line: strategy, grid, and the ranges of the masked shares."""
    rows, columns = masker.grid
    parts = [type(masker.strategy).__name__, f"{rows}×{columns} patches"]
    if masker.masked_views == "none":
        parts.append("nothing masked")
    else:
        views = masker.masked_views.replace("both", "query and key")
        parts.append(f"{views}: {_range(masker.query_ratio)} masked, {masker.patches} patches")
    if masker.local_crops:
        parts.append(f"{masker.local_crops} local crops")
    if masker.hard_negatives:
        parts.append(f"hard negative: {_range(masker.hard_negative_ratio)} of the foreground")
    if masker.strategy.focal_prob and (masker.masked_views != "none" or masker.hard_negatives):
        parts.append(f"{masker.strategy.focal_prob:.0%} focal masks")
    return "   ·   ".join(parts).replace("%", " %")


def _range(ratio: tuple[float, float]) -> str:
    low, high = ratio
    return f"{100 * low:g}%" if low == high else f"{100 * low:g}–{100 * high:g}%"


def to_photos(views: Tensor, preprocessor, filtered: bool = False) -> np.ndarray:
    """Normalised views, high-pass filtered or not → RGB (N, H, W, 3) in [0, 1].

    Of views that are no colours the preprocessor's ``shown_bands`` are shown, by default the first
    three, grey at their mean, from 2.5 standard deviations below it to 2.5 above.
    """
    if views.shape[1] != 3:
        return _to_false_colours(views, preprocessor, filtered)
    mean, std = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    if preprocessor._enable_normalize:
        mean, std = preprocessor.mean, preprocessor.std
    pixels = views.float() * std.to(views.device)
    pixels = pixels * _HIGH_PASS_CONTRAST + 127.5 if filtered else pixels + mean.to(views.device)
    if not preprocessor._channel_conversion:  # then they are BGR, as they were loaded
        pixels = pixels.flip(1)
    return (pixels / 255).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()


def _to_false_colours(views: Tensor, preprocessor, filtered: bool) -> np.ndarray:
    last = views.shape[1] - 1
    bands = preprocessor.shown_bands or [min(band, last) for band in range(3)]
    if max(bands) > last:
        raise InputError(
            f"shown_bands={list(bands)} of the data preprocessor asks for band {max(bands)}, but "
            f"the images have {last + 1}, counted from 0"
        )
    pixels = views[:, list(bands)].float()
    if not preprocessor._enable_normalize:
        std, centre = torch.std_mean(pixels, dim=(0, 2, 3), keepdim=True)
        pixels = (pixels - centre) / std.clamp(min=1e-12)
    pixels = pixels / 5 * (_HIGH_PASS_CONTRAST if filtered else 1) + 0.5
    return pixels.clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()


def to_heat(saliency: Tensor) -> np.ndarray:
    """Saliency (N, h, w) of any range → RGB (N, h, w, 3), each map from dark (low) to bright."""
    low, high = saliency.float().aminmax(dim=-1)
    low, high = low.amin(-1)[:, None, None], high.amax(-1)[:, None, None]
    share = ((saliency.float() - low) / (high - low).clamp(min=1e-12)).cpu().numpy()
    return matplotlib.colormaps["magma"](share)[..., :3]


def cover_background(photos: np.ndarray, where: Tensor) -> np.ndarray:
    """Cover the background with purple. ``where`` is bool (N, gh, gw)."""
    pixels = to_pixels(where[:, None], photos.shape[1:3])[:, 0].cpu().numpy()
    return np.where(pixels[..., None], photos, _over(photos))


def _over(colours: np.ndarray) -> np.ndarray:
    """RGB (..., 3) in [0, 1] under the purple of the background."""
    return 0.35 * colours + 0.65 * np.array(_PURPLE)


def _show(axis: Axes, column: Column, row: int, size: tuple[int, int]) -> None:
    """Show one picture of a column, stretched to H, W pixels, without ticks or frame."""
    height, width = size
    axis.imshow(column.pictures[row], extent=(0, width, height, 0))
    axis.set_axis_off()
    if column.grid is not None and max(column.grid) <= _LINES_UP_TO:
        # Pixel y lies in patch row ⌊y·gh/H⌋, so that row i begins at pixel ⌈i·H/gh⌉.
        for lines, count, pixels in (
            (axis.axhline, column.grid[0], height),
            (axis.axvline, column.grid[1], width),
        ):
            for i in range(1, count):
                lines(
                    -(-i * pixels // count),
                    color="white",
                    linewidth=2 / max(column.grid),
                    alpha=0.6,
                )
