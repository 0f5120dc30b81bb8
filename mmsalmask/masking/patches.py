"""WHICH patches: boolean masks over the patch grid, True where a patch is to be removed.

Every function draws for a whole batch in one pass: a random rank per patch, compared with a count
per image, which is the share asked for rounded to whole patches. A ``torch.Generator`` makes the
draw repeatable.
"""

from typing import Literal

import torch
from torch import Generator, Tensor

from mmsalmask.errors import InputError

Shares = Literal["equal", "paper"]


def balanced_patches(
    foreground: Tensor,
    ratio: Tensor,
    generator: Generator | None = None,
    shares: Shares = "equal",
) -> Tensor:
    """Patches such that foreground and background lose the same share r (paper, §3.2).

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

    Returns:
        bool (..., gh, gw).
    """
    available = foreground.sum((-2, -1))
    total = foreground.shape[-2] * foreground.shape[-1]
    if shares == "paper":
        count, from_foreground = (ratio * total).floor(), (ratio * available).round()
    else:
        up = torch.rand(ratio.shape, generator=generator, device=ratio.device)
        count, from_foreground = (ratio * total + up).floor(), (ratio * available + up).floor()
    count = count.long()
    from_foreground = torch.minimum(from_foreground.long(), count)
    from_background = torch.minimum(count - from_foreground, total - available)
    return _draw(foreground, count - from_background, from_background, generator)


def foreground_patches(
    foreground: Tensor, ratio: Tensor, generator: Generator | None = None
) -> Tensor:
    """round(r·|FG|) patches of the foreground only: the mask of a hard negative (paper, §3.3).

    An image without foreground has no object to hide; it is masked at random, round(r·P) patches of
    the whole grid, so that it still differs from its key. Arguments as in
    :func:`balanced_patches`.
    """
    candidates = foreground_or_all(foreground)
    count = (ratio * candidates.sum((-2, -1))).round().long()
    return _draw(candidates, count, torch.zeros_like(count), generator)


def foreground_or_all(foreground: Tensor) -> Tensor:
    """What a hard negative may lose, bool (..., gh, gw): all of an image without foreground."""
    return foreground | ~foreground.any(-1, keepdim=True).any(-2, keepdim=True)


def random_patches(
    ratio: Tensor,
    grid: tuple[int, int],
    generator: Generator | None = None,
    shares: Shares = "equal",
) -> Tensor:
    """Patches wherever the object is: ⌊r·P + u⌋ with u ~ U(0, 1), or ⌊r·P⌋ as in the paper.

    Args:
        ratio: float (...), r in [0, 1] per leading element.
        grid: rows and columns of the patch grid; P is their product.
        generator: on the ratio's device.
        shares: as in :func:`balanced_patches`.

    Returns:
        bool (..., gh, gw).
    """
    nowhere = torch.zeros(*ratio.shape, *grid, dtype=torch.bool, device=ratio.device)
    return balanced_patches(nowhere, ratio, generator, shares)


def _draw(first: Tensor, from_first: Tensor, from_rest: Tensor, generator) -> Tensor:
    """Choose ``from_first`` patches where ``first`` holds and ``from_rest`` elsewhere.

    Noise plus one outside ``first`` sorts that side's patches behind in random order, so one
    argsort ranks both sides: 0 … |first| − 1 inside, |first| … P − 1 outside.
    """
    flat = first.flatten(-2)
    noise = torch.rand(flat.shape, generator=generator, device=flat.device)
    ranks = (noise + (~flat).float()).argsort(-1).argsort(-1)
    size = flat.sum(-1, keepdim=True)
    chosen = (ranks < from_first[..., None]) | (
        (ranks >= size) & (ranks < size + from_rest[..., None])
    )
    return chosen.view(first.shape)


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
        torch.arange(pixels, device=patches.device) * count // pixels
        for pixels, count in zip(size, grid, strict=True)
    )
    # Columns first: the rows, selected last, are then copied as whole runs of memory.
    return patches.index_select(-1, columns).index_select(-2, rows)


def random_windows(
    number: int,
    size: tuple[int, int],
    share: float,
    device: torch.device,
    generator: Generator | None = None,
) -> Tensor:
    """One random window per image, the same share of each side: the focal masks.

    Args:
        number: N images.
        size: H, W in pixels.
        share: side of the window over the side of the image, in (0, 1].

    Returns:
        bool (N, 1, H, W), True inside the window, whose position is uniform.
    """
    inside = []
    for pixels in size:
        length = max(1, round(pixels * share))
        start = torch.rand(number, 1, generator=generator, device=device)
        start = (start * (pixels - length + 1)).long()
        position = torch.arange(pixels, device=device)
        inside.append((position >= start) & (position < start + length))
    rows, columns = inside
    return (rows[:, :, None] & columns[:, None, :])[:, None]
