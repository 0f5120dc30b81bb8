"""What a masker hands on, and how batches of views become one."""

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from mmsalmask.masking.patches import to_pixels
from mmsalmask.masking.strategy import Mixture


@dataclass(frozen=True)
class MaskedViews:
    """What the encoders see, and why.

    Attributes:
        query, key: (N, 3, H, W).
        hard_negatives: M tensors (N, 3, H, W).
        query_mask, key_mask: bool (N, 1 or 3, H, W), True where a pixel was replaced; ``None`` for
            a view that is not masked.
        hard_negative_masks: M masks like those.
        query_saliency, key_saliency: (N, gh, gw); ``None`` without a localizer.
        query_foreground, key_foreground: bool (N, gh, gw); ``None`` without a localizer.
        mixture: what the queries are mixed of, if they are.
        local_crops: (L·N, 3, H/2, W/2), windows of the query, see
            :func:`~mmsalmask.masking.local_crops.local_crops`; ``None`` for none.
    """

    query: Tensor
    key: Tensor
    hard_negatives: list[Tensor] = field(default_factory=list)
    query_mask: Tensor | None = None
    key_mask: Tensor | None = None
    hard_negative_masks: list[Tensor] = field(default_factory=list)
    query_saliency: Tensor | None = None
    key_saliency: Tensor | None = None
    query_foreground: Tensor | None = None
    key_foreground: Tensor | None = None
    mixture: Mixture | None = None
    local_crops: Tensor | None = None


def paired(query: Tensor, key: Tensor) -> Tensor:
    """Both as one batch, without a copy where the key follows the query in memory."""
    adjacent = (
        query._base is not None
        and query._base is key._base
        and query.is_contiguous()
        and key.is_contiguous()
        and key.storage_offset() == query.storage_offset() + query.numel()
    )
    if not adjacent:
        return torch.cat([query, key])
    return query.as_strided((2 * len(query), *query.shape[1:]), query.stride())


def joined(first: MaskedViews, second: MaskedViews) -> MaskedViews:
    """The views of one batch behind those of another, of the same masker."""

    def join(one: Any, other: Any) -> Any:
        if one is None:
            return None
        if isinstance(one, Tensor):
            return torch.cat([one, other])
        parts = [join(*pair) for pair in zip(one, other, strict=True)]
        return Mixture(*parts) if isinstance(one, Mixture) else parts

    names = [part.name for part in fields(MaskedViews)]
    return MaskedViews(
        **{name: join(getattr(first, name), getattr(second, name)) for name in names}
    )


def mask_ratios(mask: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of the foreground's and of the background's pixels that a mask covers.

    Args:
        mask: bool (N, C, H, W), as in :class:`MaskedViews`.
        where: foreground, bool (N, gh, gw).

    Returns:
        Two scalars in [0, 1]: means over the images that have that side; NaN where none has.
    """
    height, width = mask.shape[-2:]
    object_ = to_pixels(where[:, None], (height, width))
    covered = mask.float().mean(1, keepdim=True)
    shares = []
    for side in (object_, ~object_):
        area = side.sum((1, 2, 3))
        share = (covered * side).sum((1, 2, 3)) / area
        shares.append(share[area > 0].mean())
    return shares[0], shares[1]
