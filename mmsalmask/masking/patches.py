"""WHICH patches: boolean masks over the patch grid, True where a patch is to be removed.

A :class:`Quota` says how many patches an image loses on which side, :func:`draw_patches` draws
them, all in one pass: it puts one side in front of the other, each in random order, and takes a run
of patches across the border. A ``torch.Generator`` makes the draw repeatable.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor

from mmsalmask.device import constant
from mmsalmask.errors import InputError

Shares = Literal["equal", "paper"]


class Quota(NamedTuple):
    """How many patches to take from which side; leading dimensions are images, and channels.

    Attributes:
        first: bool (..., gh, gw), True on the side that stands in front.
        begin, end: (...) whole numbers: those from ``begin`` to ``end`` − 1 go, the last of the
            first side and the first of the other.
    """

    first: Tensor
    begin: Tensor
    end: Tensor


def join_quotas(quotas: list[Quota]) -> Quota:
    """The quotas of several batches, along the first dimension."""
    return quotas[0] if len(quotas) == 1 else Quota(*map(torch.cat, zip(*quotas, strict=True)))


def balanced_quota(
    foreground: Tensor,
    ratio: Tensor,
    generator: Generator | None = None,
    shares: Shares = "equal",
) -> Quota:
    """Foreground and background lose the same share r (paper, §3.2).

    ``equal``: with one u ~ U(0, 1) per leading element, ⌊r·P + u⌋ patches, of which ⌊r·|FG| + u⌋
    come from the foreground and the rest from the background, without replacement. Each side then
    loses r·|side| patches on average, rounded up or down. ``paper``: n = ⌊r·P⌋ patches, of which
    round(r·|FG|) come from the foreground; the background bears what n is rounded down by. What one
    side cannot supply the other does. An image without foreground (see
    :func:`mmsalmask.saliency.foreground`) is masked at random.

    Args:
        foreground: bool (..., gh, gw); leading dimensions are images, or images and channels.
        ratio: float (...), r in [0, 1] per leading element.
        generator: on the foreground's device.
        shares: ``equal``, or ``paper`` for the published counts.
    """
    available = foreground.sum((-2, -1))
    total = foreground.shape[-2] * foreground.shape[-1]
    if shares == "paper":
        count, from_foreground = (ratio * total).floor(), (ratio * available).round()
        from_foreground = torch.minimum(from_foreground, count)
    else:
        up = torch.rand(ratio.shape, generator=generator, device=ratio.device)
        count = (ratio * total).add_(up).floor_()
        # For r = 1, rounding may have reached one more.
        from_foreground = torch.minimum((ratio * available).add_(up).floor_(), available)
    end = (available - from_foreground).add_(count).clamp_(max=total)
    return Quota(foreground, end - count, end)


def foreground_quota(foreground: Tensor, ratio: Tensor) -> Quota:
    """round(r·|FG|) patches of the foreground only: the mask of a hard negative (paper, §3.3).

    An image without foreground has no object to hide; it is masked at random, round(r·P) patches of
    the whole grid, so that it still differs from its key. Arguments as in :func:`balanced_quota`.
    """
    candidates = foreground_or_all(foreground)
    available = candidates.sum((-2, -1))
    return Quota(candidates, available - (ratio * available).round_(), available)


def random_quota(
    ratio: Tensor,
    grid: tuple[int, int],
    generator: Generator | None = None,
    shares: Shares = "equal",
) -> Quota:
    """Patches wherever the object is: ⌊r·P + u⌋ with u ~ U(0, 1), or ⌊r·P⌋ as in the paper.

    Args:
        ratio: float (...), r in [0, 1] per leading element.
        grid: rows and columns of the patch grid; P is their product.
        generator: on the ratio's device.
        shares: as in :func:`balanced_quota`.
    """
    nowhere = torch.zeros(*ratio.shape, *grid, dtype=torch.bool, device=ratio.device)
    return balanced_quota(nowhere, ratio, generator, shares)


def block_quota(
    ratio: Tensor, grid: tuple[int, int], generator: Generator | None = None, rounds: int = 16
) -> Quota:
    """At most ⌊r·P⌋ patches of the whole grid, in blocks (Bao et al. 2022; MixMask).

    In each round a rectangle is drawn, of at least four patches where that many are to go, of an
    aspect ratio from 0.3 to 1/0.3, and smaller than the grid on both sides. It is taken if it
    masks a patch, and no more than are to go. A few may remain when the rounds are over.

    Args:
        ratio: float (...), r in [0, 1] per leading element.
        grid: rows and columns of the patch grid; P is their product.
        generator: on the ratio's device.
        rounds: how many rectangles are tried.
    """
    height, width = grid
    count = (ratio * (height * width)).floor()
    rows = torch.arange(height, device=ratio.device)[:, None]
    columns = torch.arange(width, device=ratio.device)
    noise = torch.rand(rounds, 4, *ratio.shape, generator=generator, device=ratio.device)
    taken = torch.zeros(*ratio.shape, height, width, dtype=torch.bool, device=ratio.device)
    for size, shape, y, x in noise:
        left = count - taken.sum((-2, -1))
        area = 4 + (left - 4) * size
        aspect = torch.exp((2 * shape - 1) * math.log(1 / 0.3))
        high, wide = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
        top = (y * (height - high + 1)).floor()[..., None, None]
        start = (x * (width - wide + 1)).floor()[..., None, None]
        block = (rows >= top) & (rows < top + high[..., None, None])
        block = block & (columns >= start) & (columns < start + wide[..., None, None])
        new = (block & ~taken).sum((-2, -1))
        fits = (high < height) & (wide < width) & (new > 0) & (new <= left)
        taken = taken | (block & fits[..., None, None])
    total = taken.sum((-2, -1))
    return Quota(taken, torch.zeros_like(total), total)


def foreground_or_all(foreground: Tensor) -> Tensor:
    """What a hard negative may lose, bool (..., gh, gw): all of an image without foreground."""
    return foreground | ~foreground.flatten(-2).any(-1)[..., None, None]


def draw_patches(quota: Quota, generator: Generator | None = None) -> Tensor:
    """Choose patches at random, exactly as many as the quota says, bool (..., gh, gw)."""
    first, begin, end = quota
    flat = first.flatten(-2)
    # Noise, less by one on the first side, sorts that side to the front.
    noise = torch.rand(flat.shape, generator=generator, device=flat.device)
    order = noise.add_(flat, alpha=-1).argsort(-1)
    place = constant(list(range(flat.shape[-1])), flat.device)
    taken = (place >= begin[..., None]).logical_and_(place < end[..., None])
    return torch.empty_like(taken).scatter_(-1, order, taken).view(first.shape)


def balanced_patches(
    foreground: Tensor,
    ratio: Tensor,
    generator: Generator | None = None,
    shares: Shares = "equal",
) -> Tensor:
    """Patches of a :func:`balanced_quota`, bool (..., gh, gw)."""
    quota = balanced_quota(foreground, ratio, generator, shares)
    return draw_patches(quota, generator)


def foreground_patches(
    foreground: Tensor, ratio: Tensor, generator: Generator | None = None
) -> Tensor:
    """Patches of a :func:`foreground_quota`, bool (..., gh, gw)."""
    return draw_patches(foreground_quota(foreground, ratio), generator)


def random_patches(
    ratio: Tensor,
    grid: tuple[int, int],
    generator: Generator | None = None,
    shares: Shares = "equal",
) -> Tensor:
    """Patches of a :func:`random_quota`, bool (..., gh, gw)."""
    return draw_patches(random_quota(ratio, grid, generator, shares), generator)


def block_patches(
    ratio: Tensor, grid: tuple[int, int], generator: Generator | None = None, rounds: int = 16
) -> Tensor:
    """Patches of a :func:`block_quota`, bool (..., gh, gw)."""
    return block_quota(ratio, grid, generator, rounds).first


def to_pixels(patches: Tensor, size: tuple[int, int]) -> Tensor:
    """Spread a patch mask over the pixels: pixel y lies in patch row ⌊y·gh/H⌋.

    Args:
        patches: bool (N, C, gh, gw).
        size: H, W in pixels; need not be multiples of the grid.

    Returns:
        bool (N, C, H, W).

    Raises:
        InputError: if the image has fewer pixels than the grid has patches along a side.
    """
    grid = patches.shape[-2:]
    if size[0] < grid[0] or size[1] < grid[1]:
        raise InputError(
            f"an image of {size[0]}x{size[1]} px is smaller than the {grid[0]}x{grid[1]} patch "
            "grid: use larger views or a smaller grid"
        )
    rows, columns = (
        cells_of(pixels, count, patches.device) for pixels, count in zip(size, grid, strict=True)
    )
    # Columns first: the rows, selected last, are then copied as whole runs of memory.
    return patches.index_select(-1, columns).index_select(-2, rows)


def cells_of(pixels: int, count: int, device: torch.device) -> Tensor:
    """(pixels,) int64: the cell, of so many, in which each pixel lies."""
    return constant([pixel * count // pixels for pixel in range(pixels)], device, torch.long)


def place_windows(
    places: Tensor, size: tuple[int, int], shares: list[float]
) -> tuple[Tensor, Tensor]:
    """Windows of images, for each of the shares one per image: the focal masks.

    Args:
        places: (S, N, 2), uniform in [0, 1): where a window lies, down and across.
        size: H, W in pixels.
        shares: S sides of windows over the side of the image, in (0, 1].

    Returns:
        Their rows, bool (S·N, H), and their columns, bool (S·N, W); every place is equally likely.
    """
    lengths = [[max(1, round(pixels * share)) for pixels in size] for share in shares]
    spread = [
        [pixels - length + 1 for pixels, length in zip(size, pair, strict=True)] for pair in lengths
    ]
    # Twice the distances of pixels from the middle of a window that starts at 0.
    distances = [
        [[2 * pixel + 1 - length for pixel in range(max(size))] for length in pair]
        for pair in lengths
    ]
    start = (places * constant(spread, places.device)[:, None]).floor_()[..., None]
    away = constant(distances, places.device)[:, None].sub(start, alpha=2)
    inside = away.abs_() < constant(lengths, places.device)[:, None, :, None]
    rows, columns = inside.flatten(0, 1).unbind(1)
    return rows[:, : size[0]], columns[:, : size[1]]


def cut_by_windows(
    patches: Tensor, size: tuple[int, int], whole: Tensor, kept: Tensor, window: tuple[Tensor, ...]
) -> Tensor:
    """Spread a patch mask over the pixels, of some images only inside or outside of a window.

    Args:
        patches: bool (N, C, gh, gw); all True where a window is kept.
        size: H, W in pixels.
        whole: bool (N, 1), which images have no window.
        kept: bool (N, 1), of the others: whether the window is kept and all outside of it goes.
        window: its rows and columns, bool (N, H) and (N, W).

    Returns:
        bool (N, C, H, W).
    """
    number, channels, height, width = patches.shape
    rows, columns = window
    across = patches.index_select(-1, cells_of(size[1], width, patches.device))
    across &= columns.logical_xor(kept).logical_or_(whole)[:, None, None]
    # A last row is what lies above and below a window.
    outside = kept[:, None, None].expand(-1, channels, 1, size[1])
    table = torch.cat([across, outside], 2).flatten(0, 2)
    row = cells_of(size[0], height, patches.device)
    row = torch.where(rows | whole, row, constant([height], patches.device, torch.long))
    tables = constant(list(range(0, len(table), height + 1)), patches.device, torch.long)
    # Rows are then copied as whole runs of memory.
    rows = (tables.view(number, channels, 1) + row[:, None]).flatten()
    return table.index_select(0, rows).view(number, channels, *size)
