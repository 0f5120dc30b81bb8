"""How much of foreground and background masks cover, counted over a run."""

import torch
from torch import Tensor

from mmsalmask.masking import MaskedViews, mask_ratios, to_pixels


class Ratios:
    """What every mask of a run covers, image by image, since not all have both sides."""

    def __init__(self) -> None:
        self.shares: dict[str, list[Tensor]] = {}
        self.object_shares: list[Tensor] = []
        self.views = self.plain = 0

    def add(self, views: MaskedViews) -> None:
        self.views += len(views.query)
        masks = [
            ("query", views.query_mask, views.query_foreground),
            ("key", views.key_mask, views.key_foreground),
            *(("hard negatives", m, views.key_foreground) for m in views.hard_negative_masks),
        ]
        for name, mask, where in masks:
            if mask is not None:
                self.shares.setdefault(name, []).extend(shares(mask, where))
        if views.query_foreground is not None:
            pixels = to_pixels(views.query_foreground[:, None], views.query.shape[-2:])
            self.object_shares += pixels.float().mean((1, 2, 3))
            self.plain += (~views.query_foreground.flatten(1).any(1)).sum().item()

    def line(self) -> str:
        """Means over the images of the run that have the side in question."""
        parts = []
        for name, rows in self.shares.items():
            means = torch.stack(rows).nanmean(0).mul(100).tolist()
            sides = ("the view",) if len(means) == 1 else ("foreground", "background")
            told = [f"{m:.1f} % of {s}" for m, s in zip(means, sides, strict=True) if m == m]
            parts.append(f"{name}: {', '.join(told)}{'' if parts else ' masked'}")
        parts = parts or ["nothing masked"]
        if self.object_shares:
            share = 100 * torch.stack(self.object_shares).mean()
            plain = f", {self.plain} views without any, masked at random" if self.plain else ""
            parts.append(f"foreground {share:.0f} % of the view{plain}")
        return f"{'; '.join(parts)} ({self.views} views)"


def shares(mask: Tensor, where: Tensor | None) -> list[Tensor]:
    """Per image the masked share of foreground and background, or, without them, of the view."""
    if where is None:
        return list(mask.float().mean((1, 2, 3))[:, None])
    pairs = zip(mask.split(1), where.split(1), strict=True)
    return [torch.stack(mask_ratios(*pair)) for pair in pairs]


class Areas:
    """The mean area of each slot of an ADIOS mask net over a run."""

    def __init__(self) -> None:
        self.areas: list[Tensor] = []

    def add(self, masks: Tensor) -> None:
        self.areas += masks.mean((2, 3))

    def line(self) -> str:
        means = torch.stack(self.areas).mean(0).mul(100).tolist()
        told = ", ".join(f"{number}: {mean:.1f} %" for number, mean in enumerate(means, 1))
        return f"mean area of each slot: {told} ({len(self.areas)} views)"
