"""A fill that looks like the rest of the image: patches of its own background."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Generator, Tensor

from mmsalmask.device import constant
from mmsalmask.errors import InputError
from mmsalmask.masking.patches import cells_of
from mmsalmask.masking.strategy import Strategy, View


@dataclass(frozen=True)
class BackgroundPatches(Strategy):
    """Plain views; a masked patch shows another patch, drawn from the same view's background.

    The statistics of what is pasted are those of a photo: there is no uniform colour and no noise
    that an encoder could respond to, and a hard negative is the key's own scene without most of its
    object. The edges of the patches remain. Each masked patch draws a patch of its own, uniformly
    and never itself. Where the background is one patch or none, all patches of the view are drawn
    from, as in a view whose saliency says nothing. Patches only. Not of the paper.

    >>> from mmsalmask.masking import SaliencyMasker
    >>> from mmsalmask.saliency import BoundaryPriorSaliency
    >>> masker = SaliencyMasker(BackgroundPatches(), BoundaryPriorSaliency())
    >>> masker(*torch.rand(2, 4, 3, 64, 64)).query.shape
    torch.Size([4, 3, 64, 64])

    Raises:
        InputError: for another shape of mask, or a grid of one patch.
    """

    needs_foreground = True
    example = dict()

    def fill(self, view: View, generator: Generator | None) -> Tensor:
        assert view.where is not None  # the masker sees to it
        height, width = view.seen.shape[2:]
        rows, columns = view.where.shape[1:]
        source = _draw_sources(view.where, generator)
        y = _moved((source // columns).mT, height).mT
        x = _moved(source % columns, width)
        y = y.index_select(2, cells_of(width, columns, y.device))
        x = x.index_select(1, cells_of(height, rows, x.device))
        pixels = (y * width).add_(x).flatten(1)[:, None].expand(-1, view.seen.shape[1], -1)
        return view.seen.flatten(2).gather(2, pixels).view(view.seen.shape)


def _draw_sources(where: Tensor, generator: Generator | None) -> Tensor:
    """For each patch the number of another one of the background, int64 (N, gh, gw)."""
    number = where[0].numel()
    if number < 2:
        raise InputError("BackgroundPatches fills a patch with another one: use a finer grid")
    background = ~where.flatten(1)
    candidate = background | (background.sum(1, keepdim=True) < 2)
    # Candidates first; the place of each among them.
    order = candidate.int().argsort(stable=True, dim=1, descending=True)
    place = candidate.cumsum(1) - 1
    # A candidate has one choice less: it skips itself.
    choices = candidate.sum(1, keepdim=True) - candidate.long()
    drawn = torch.rand(where.flatten(1).shape, generator=generator, device=where.device)
    drawn = torch.minimum((drawn * choices).long(), choices - 1)
    drawn += candidate & (drawn >= place)
    return order.gather(1, drawn).view(where.shape)


def _moved(cells: Tensor, pixels: int) -> Tensor:
    """Where along one side a pixel finds its own place in another cell, int64 (..., pixels).

    Args:
        cells: int64 (..., count): the cell that each of so many cells is to show. Cells differ by
            a pixel where ``count`` does not divide the side: of a smaller one the last pixel is
            repeated.
        pixels: of the side.
    """
    count = cells.shape[-1]
    edges = [-(-cell * pixels // count) for cell in range(count + 1)]
    places = [
        [
            min(start + pixel - edges[pixel * count // pixels], end - 1)
            for start, end in pairwise(edges)
        ]
        for pixel in range(pixels)
    ]
    shown = cells.index_select(-1, cells_of(pixels, count, cells.device))
    pixel = constant(list(range(pixels)), cells.device, torch.long)
    return constant(places, cells.device, torch.long)[pixel, shown]
