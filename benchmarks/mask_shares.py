"""What query masks and hard negatives take of foreground and background, on real photos.

    python benchmarks/mask_shares.py [--draws 20] [--json benchmarks/results/mask_shares.json]

Photos of coco-mini, their foreground by ``BoundaryPriorSaliency``; the shares are those that a
training logs (``query_masked_fg%`` and so on), with either choice of ``SaliencyMasker.shares``.
"""

import torch
from localizers import unpacked_photos
from shares import measured
from torch import Tensor

from mmsalmask.cli import report_errors
from mmsalmask.masking import HighPassNoise, MeanFill, SaliencyMasker, mask_ratios
from mmsalmask.saliency import BoundaryPriorSaliency, Frozen, foreground, pool_to_grid

GRIDS = (3, 7, 14)
SIDE = 84  # of as many pixels as all grids divide: masks of larger views take the same shares


@torch.no_grad()
def measure(saliency: Tensor, draws: int, seed: int) -> list[dict]:
    """A row per grid, strategy and choice of shares: mean percentages over photos and draws.

    Args:
        saliency: maps (N, h, w), finer than the grids.
    """
    views = saliency.new_zeros(len(saliency), 3, SIDE, SIDE)
    rows = []
    for grid in GRIDS:
        where = foreground(pool_to_grid(saliency, grid))
        for name, strategy in (("patches", MeanFill()), ("high-pass", HighPassNoise())):
            for shares in ("equal", "paper"):
                masker = SaliencyMasker(strategy, torch.nn.Identity(), grid, shares=shares)
                row = {"grid": grid, "masks": name, "shares": shares}
                generator = torch.Generator().manual_seed(seed)
                for role, make in (("query", masker.mask), ("hard", masker.harden)):
                    drawn = [
                        torch.stack(mask_ratios(make(views, where, generator)[1], where))
                        for _ in range(draws)
                    ]
                    sides = torch.stack(drawn).mean(0).mul(100).tolist()
                    row |= {f"{role}_fg": round(sides[0], 1), f"{role}_bg": round(sides[1], 1)}
                rows.append(row)
    return rows


def main(draws: int, seed: int) -> list[dict]:
    images, _ = unpacked_photos()
    return measure(Frozen(BoundaryPriorSaliency())(images), draws, seed)


if __name__ == "__main__":
    with report_errors():
        measured(__doc__, main)
