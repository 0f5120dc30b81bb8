"""The masker: saliency → foreground → patches → fill, for a batch of view pairs."""

import math
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from mmsalmask.checks import check_sides, is_integer, is_number, is_pair
from mmsalmask.device import constant
from mmsalmask.errors import InputError
from mmsalmask.masking.local_crops import local_crops
from mmsalmask.masking.patches import (
    Quota,
    Shares,
    balanced_quota,
    block_quota,
    cut_by_windows,
    draw_patches,
    foreground_quota,
    join_quotas,
    place_windows,
    random_quota,
    to_pixels,
)
from mmsalmask.masking.strategy import Strategy, View
from mmsalmask.masking.views import MaskedViews, joined, paired
from mmsalmask.saliency import Crops, Frozen, foreground

# Sides of the focal windows, published for views of 224 px; they scale with the view.
FOCAL_SHARE = {"query": 200 / 224, "hard_negative": 130 / 224}
# Whether the query and the key are masked.
_MASKED = {
    "query": (True, False),
    "key": (False, True),
    "both": (True, True),
    "none": (False, False),
}


class SaliencyMasker(nn.Module):
    """Mask the query of a view pair and make hard negatives of its key (paper, §3).

    The query loses the same share of foreground and background by its patches; the key stays clean;
    a hard negative is the key's crop with most of its foreground masked. Holds no parameters: the
    localizer is kept :class:`~mmsalmask.saliency.Frozen`, outside of the module tree.

    Args:
        strategy: what the encoder sees and what fills a mask.
        localizer: a :class:`~mmsalmask.saliency.Localizer`, or any module (N, 3, H, W) → saliency
            (N, h, w); ``None`` for random masking (MSCN).
        grid: patches per side, or (rows, columns).
        offset: foreground threshold, mean − offset·std of the map.
        query_ratio: range of the share r of patches that the query loses, uniform per image.
        hard_negative_ratio: range of the share of the foreground that a hard negative loses.
        hard_negatives: M, how many hard negatives per image; 0 for none.
        masked_views: which views are masked: the method masks the query alone. ``none`` leaves the
            strategy's view, local crops and hard negatives.
        patches: where the masked patches come from; all but ``balanced`` are ablations.
            ``foreground`` and ``background`` draw the share r of that side only, ``block`` draws
            rectangles (MixMask).
        shares: ``equal``: patches of a query take the same share of both sides, on average over the
            draws, and a hard negative keeps its background. ``paper``: the published counts, whose
            rounding spares the background of a query, and focal windows that also take what they
            cover of a hard negative's background.
        local_crops: L, how many windows of the clean query are queries of their own, on the object
            where there is a localizer, see :func:`mmsalmask.masking.local_crops.local_crops`.

    Raises:
        InputError: for what is not a strategy, ratios outside [0, 1] or reversed, an offset that
            no patch could reach, an unknown choice, a choice that needs a localizer where there is
            none, or a cache that is coarser than the grid.
    """

    def __init__(
        self,
        strategy: Strategy,
        localizer: nn.Module | None = None,
        grid: int | tuple[int, int] = 7,
        offset: float = 0.6,
        query_ratio: tuple[float, float] = (0.05, 0.25),
        hard_negative_ratio: tuple[float, float] = (0.4, 0.7),
        hard_negatives: int = 1,
        masked_views: Literal["query", "key", "both", "none"] = "query",
        patches: Literal["balanced", "random", "block", "foreground", "background"] = "balanced",
        shares: Shares = "equal",
        local_crops: int = 0,
    ) -> None:
        super().__init__()
        self.strategy = strategy
        self.grid = check_sides("grid", grid, 1)
        self.localizer = None if localizer is None else Frozen(localizer)
        if self.localizer is not None:
            self.localizer.check_grid(self.grid)
        self.offset = offset
        self.query_ratio = _check_range("query_ratio", query_ratio)
        self.hard_negative_ratio = _check_range("hard_negative_ratio", hard_negative_ratio)
        self.hard_negatives = hard_negatives
        self.masked_views = masked_views
        self.patches = patches
        self.shares = shares
        self.local_crops = local_crops
        self._check_choices()

    def _check_choices(self) -> None:
        if self.masked_views not in tuple(_MASKED):  # a value may be no key of a dict
            raise InputError(
                f"masked_views must be 'query', 'key', 'both' or 'none', got {self.masked_views!r}"
            )
        if self.patches not in ("balanced", "random", "block", "foreground", "background"):
            raise InputError(
                "patches must be 'balanced', 'random', 'block', 'foreground' or 'background', "
                f"got {self.patches!r}"
            )
        if self.shares not in ("equal", "paper"):
            raise InputError(f"shares must be 'equal' or 'paper', got {self.shares!r}")
        if not isinstance(self.strategy, Strategy):
            raise InputError(
                "strategy must be a Strategy, such as HighPassNoise, StrongBlur or MeanFill, got "
                f"{self.strategy!r}"
            )
        # None of n values lies further than √(n − 1) standard deviations from their mean.
        reach = math.sqrt(math.prod(self.grid))
        if not is_number(self.offset, -reach, reach):
            raise InputError(
                "offset is a number of standard deviations, for this grid from "
                f"{-reach:.3g} to {reach:.3g}: beyond, all patches or none are foreground; got "
                f"{self.offset!r}"
            )
        for name in ("hard_negatives", "local_crops"):
            if not is_integer(number := getattr(self, name), 0):
                raise InputError(f"{name} is a number of views per image, got {number!r}")
        if self.localizer is None and self.patches not in ("random", "block"):
            raise InputError(
                f"patches={self.patches!r} needs a localizer: give one, or set patches='random'"
            )
        if self.localizer is None and self.strategy.needs_foreground:
            raise InputError(
                f"{type(self.strategy).__name__} fills masks by where the object is, which needs a "
                "localizer: give one, or take another strategy"
            )
        if self.strategy.mixes and (self.hard_negatives or self.masked_views != "query"):
            raise InputError(
                f"{type(self.strategy).__name__} mixes queries of two images, which a key or a "
                "hard negative cannot be: set hard_negatives=0 and masked_views='query'"
            )
        if self.localizer is None and self.hard_negatives:
            raise InputError(
                "a hard negative hides the object, which needs a localizer: give one, "
                "or set hard_negatives=0"
            )

    @torch.no_grad()
    def forward(
        self,
        query: Tensor,
        key: Tensor,
        generator: Generator | None = None,
        crops: tuple[Crops, ...] | None = None,
        both_directions: bool = False,
    ) -> MaskedViews:
        """Mask a batch of normalised view pairs.

        Args:
            query, key: (N, 3, H, W), normalised.
            generator: on the views' device; the global one where absent.
            crops: which parts of which images the query and the key are; only a cache asks.
            both_directions: also mask the key as a query, with the clean query as its key. The
                localizer sees each view once all the same.

        Raises:
            InputError: for batches that are not alike, views smaller than the grid, a saliency map
                coarser than it, or a cache without crops.
        """
        if query.ndim != 4 or query.shape != key.shape:
            raise InputError(
                "query and key are two views (N, 3, H, W) of the same images, got "
                f"{tuple(query.shape)} and {tuple(key.shape)}: give both one size"
            )
        pair = paired(query, key)
        saliency, where = self._locate(pair, crops)
        seen = self.strategy.see(pair).chunk(2)
        views = self._mask_pairs(seen, saliency, where, generator)
        if not both_directions:
            return views
        turned = self._mask_pairs(seen[::-1], saliency[::-1], where[::-1], generator)
        return joined(views, turned)

    def _mask_pairs(
        self,
        seen: tuple[Tensor, ...],
        saliency: tuple[Tensor | None, ...],
        where: tuple[Tensor | None, ...],
        generator: Generator | None,
    ) -> MaskedViews:
        """Mask pairs of what the encoder sees, given saliency and foreground of each view."""
        as_query, as_key = (View("query", *view) for view in zip(seen, where, strict=True))
        wanted = _MASKED[self.masked_views]
        hard = [View("hard_negative", seen[1], where[1])] * self.hard_negatives
        masked = [
            view for view, is_masked in zip((as_query, as_key), wanted, strict=True) if is_masked
        ]
        done = iter(self._hide([*masked, *hard], generator))
        (masked_q, mask_q), (masked_k, mask_k) = (
            next(done) if is_masked else (view, None)
            for view, is_masked in zip(seen, wanted, strict=True)
        )
        hardened = list(done)
        crops = None
        if self.local_crops:
            crops = local_crops(seen[0], saliency[0], self.local_crops, generator)
        return MaskedViews(
            query=masked_q,
            key=masked_k,
            hard_negatives=[view for view, _ in hardened],
            query_mask=mask_q,
            key_mask=mask_k,
            hard_negative_masks=[mask for _, mask in hardened],
            query_saliency=saliency[0],
            key_saliency=saliency[1],
            query_foreground=where[0],
            key_foreground=where[1],
            mixture=None if mask_q is None else self.strategy.mixture(seen[0], mask_q),
            local_crops=crops,
        )

    def mask(
        self, seen: Tensor, where: Tensor | None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mask views as a positive: foreground and background lose the same share of patches.

        Args:
            seen: what the encoder sees before masking, (N, 3, H, W).
            where: its foreground, bool (N, gh, gw); ``None`` without a localizer.

        Returns:
            The masked views, and the mask, bool (N, 1 or 3, H, W).
        """
        return self._hide([View("query", seen, where)], generator)[0]

    def harden(
        self, seen: Tensor, where: Tensor, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Make hard negatives of views: most of the foreground goes, the background stays.

        Arguments and returns as in :meth:`mask`.
        """
        return self._hide([View("hard_negative", seen, where)], generator)[0]

    def _locate(self, pair: Tensor, crops: tuple[Crops, ...] | None) -> tuple:
        """Saliency of both views and foreground of both, from one pass of the localizer."""
        if self.localizer is None:
            return (None, None), (None, None)
        joint = None
        if crops is not None and self.localizer.needs == "crops":
            joint = crops[0].followed_by(crops[1])
        saliency = self.localizer.locate(pair, joint, self.grid)
        return saliency.chunk(2), foreground(saliency, self.offset).chunk(2)

    def _hide(self, views: list[View], generator: Generator | None) -> list[tuple[Tensor, Tensor]]:
        """Replace the masked pixels of each of the views, of one size; return it with its mask."""
        if not views:
            return []
        masks = self._draw_masks(views, generator).chunk(len(views))
        done = []
        for view, mask in zip(views, masks, strict=True):
            fill = self.strategy.fill(view, generator)
            done.append((self.strategy.paste(view.seen, fill, mask), mask))
        return done

    def _draw_masks(self, views: list[View], generator: Generator | None) -> Tensor:
        """Masks of all the views, one after the other, bool (V·N, 1 or 3, H, W)."""
        strategy, device = self.strategy, views[0].seen.device
        number, _, height, width = views[0].seen.shape
        # Of each image: the share, whether channels differ, whether it is focal, where its window.
        drawn = torch.rand(len(views), number, 5, generator=generator, device=device)
        ranges = {"query": self.query_ratio, "hard_negative": self.hard_negative_ratio}
        low, high = (
            constant([ranges[view.role][end] for view in views], device)[:, None] for end in (0, 1)
        )
        share = drawn[:, :, 0]
        share = torch.lerp(low.expand_as(share), high.expand_as(share), share)
        probs = constant([strategy.channel_prob, strategy.focal_prob], device)
        spatial, whole = (drawn[:, :, 1:3] >= probs).view(-1, 2, 1, 1, 1).unbind(1)
        # Patches that all channels share and, of a strategy that has them, such of each channel.
        channels = 1 + views[0].seen.shape[1] if strategy.channel_prob else 1
        quota = join_quotas(
            [
                self._quota(view, ratio[:, None].expand(-1, channels), generator)
                for view, ratio in zip(views, share, strict=True)
            ]
        )
        patches = draw_patches(quota, generator)
        if strategy.channel_prob:
            patches = torch.where(spatial, patches[:, :1], patches[:, 1:])
        if not strategy.focal_prob:
            return to_pixels(patches, (height, width))
        return self._cut_focal(views, quota.first[:, :1], patches, whole, drawn[:, :, 3:])

    def _cut_focal(
        self, views: list[View], hideable: Tensor, patches: Tensor, whole: Tensor, place: Tensor
    ) -> Tensor:
        """The patches over the pixels, of images that are not ``whole`` a focal mask instead."""
        roles = [view.role for view in views]
        number, *_, height, width = views[0].seen.shape
        window = place_windows(place, (height, width), [FOCAL_SHARE[role] for role in roles])
        # A focal mask of a hard negative takes the foreground of its window alone.
        kept, anywhere = (
            constant([[flag] for flag in flags for _ in range(number)], place.device, torch.bool)
            for flags in (
                [role == "query" for role in roles],
                [role == "query" or self.shares == "paper" for role in roles],
            )
        )
        patches = torch.where(whole, patches, hideable | anywhere[:, :, None, None])
        return cut_by_windows(patches, (height, width), whole[:, :, 0, 0], kept, window)

    def _quota(self, view: View, ratio: Tensor, generator: Generator | None) -> Quota:
        """How many patches each channel of the view loses; ``ratio`` is (N, channels)."""
        if view.role == "query" and self.patches == "block":
            return block_quota(ratio, self.grid, generator)
        if view.where is None or (view.role == "query" and self.patches == "random"):
            return random_quota(ratio, self.grid, generator, self.shares)
        where = view.where[:, None].expand(-1, ratio.shape[1], -1, -1)
        if view.role == "query" and self.patches == "balanced":
            return balanced_quota(where, ratio, generator, self.shares)
        if view.role == "query" and self.patches == "background":
            where = ~where
        return foreground_quota(where, ratio)


def _check_range(name: str, ratio: tuple[float, float]) -> tuple[float, float]:
    pair = is_pair(ratio)
    if not pair or not all(is_number(end, 0, 1) for end in ratio) or ratio[0] > ratio[1]:
        raise InputError(
            f"{name} must be a range (low, high) with 0 <= low <= high <= 1, got {ratio!r}"
        )
    return ratio[0], ratio[1]
