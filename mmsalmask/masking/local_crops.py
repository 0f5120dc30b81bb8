"""Local crops: windows of a view, on its object where a saliency map is given."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mmsalmask.device import without_autocast

# Side of a window in sides of the view. A view of 20 to 100 % of an image then gives windows of 5
# to 25 % of it, like the local crops of SwAV and DINO, but at the view's resolution.
SHARE = 1 / 2
# Windows drawn for each that is cut: the most salient one is.
CANDIDATES = 4


def local_crops(
    views: Tensor, saliency: Tensor | None, number: int, generator: Generator | None = None
) -> Tensor:
    """Windows of half a view's side, at random places or on the object.

    Of the places drawn uniformly for a window, the most salient one is taken.

    Args:
        views: (N, C, H, W).
        saliency: their maps (N, h, w), in any unit; ``None`` for random places.
        number: L, windows per view.
        generator: on the views' device; the global one where absent.

    Returns:
        (L·N, C, H/2, W/2), the first window of every view before the second of any.

    >>> views, saliency = torch.zeros(1, 1, 8, 8), torch.zeros(1, 8, 8)
    >>> views[..., 4:, 4:] = saliency[..., 4:, 4:] = 1.0
    >>> local_crops(views, saliency, number=2).shape
    torch.Size([2, 1, 4, 4])
    """
    images, _, *sides = views.shape
    window = [round(SHARE * side) for side in sides]
    draws = 1 if saliency is None else CANDIDATES
    place = torch.rand(2, number, images, draws, generator=generator, device=views.device)
    top, left = (
        (share * (side - cut + 1)).long().clamp_(max=side - cut)
        for share, side, cut in zip(place, sides, window, strict=True)
    )
    if saliency is not None:
        most = _inside(saliency, sides, (top, left), window).argmax(-1, keepdim=True)
        top, left = top.gather(-1, most), left.gather(-1, most)
    each = torch.arange(images, device=views.device)
    rows, columns = (
        start + torch.arange(cut, device=views.device)
        for start, cut in zip((top, left), window, strict=True)
    )
    cut_out = views[each[:, None, None], :, rows[..., None], columns[:, :, None]]
    return cut_out.permute(0, 1, 4, 2, 3).flatten(0, 1)


def _inside(saliency: Tensor, sides: list[int], corner: tuple, window: list[int]) -> Tensor:
    """Saliency inside windows of views of these sides, by their corners (L, N, D).

    A map is read between its cells bilinearly, which is linear along each side, so a window is
    summed by how much of it each row and each column of cells makes up; no map of the views' size
    is needed.
    """
    parts = []
    for cells, side, start, cut in zip(saliency.shape[1:], sides, corner, window, strict=True):
        reach = _reach(cells, side, saliency.device)
        parts.append(reach[start + cut] - reach[start])
    rows, columns = parts
    with without_autocast(saliency.device):
        return torch.einsum("lndh,nhw,lndw->lnd", rows, saliency.float(), columns)


@lru_cache(maxsize=32)
def _reach(cells: int, side: int, device: torch.device) -> Tensor:
    """What each cell adds to the first p pixels of a side, p = 0 … side, (side + 1, cells)."""
    with torch.inference_mode(False):
        pixels = F.interpolate(torch.eye(cells)[None], side, mode="linear")[0]
        return F.pad(pixels.cumsum(1), (1, 0)).T.contiguous().to(device)
