"""NT-Xent with hard negatives for every anchor (SimCLR, Chen et al. 2020; paper, §3)."""

from typing import Any, Literal, overload

import torch
from torch import Tensor

from mmsalmask.errors import InputError
from mmsalmask.losses.info_nce import contrast_logits, first_against_rest


def nt_xent_logits(
    first: Tensor,
    second: Tensor,
    hard_negatives: Tensor | None = None,
    penalty: float = 2.0,
    temperature: float = 0.1,
    negatives: Tensor | None = None,
    crops: Tensor | None = None,
) -> Tensor:
    """Similarities over τ of the anchors: row i is image i's first view, row N + i its second.

    Column 0 is the positive, the other view of the image. Columns 1 … 2N are the embeddings of both
    views of the batch, −∞ for those of the anchor's own image, which are no negatives of it; then
    come ``negatives``, then the hard negatives of the anchor's image.

    Args:
        first, second: the two views, (N, D), ℓ2-normalised, any floating dtype.
        hard_negatives: (N, D) or (N, M, D), ℓ2-normalised; row i belongs to the anchors of image i
            and to no other.
        penalty: ρ, factor on the similarity to a hard negative.
        temperature: τ > 0.
        negatives: (K, D), ℓ2-normalised, of images outside this batch (those of the other
            processes), shared by all anchors.
        crops: (L·N, D), ℓ2-normalised, of parts of the first views: further anchors, rows
            2N + l·N + i, whose positive is the second view of image i. They are no one's negatives.

    Returns:
        float32 ((2 + L)·N, 1 + 2N + K + M).

    Raises:
        InputError: for τ ≤ 0, two views of different shape, negatives of another width, or hard
            negatives or crops that do not come to the same number for every image.
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise InputError(
            "the two views need embeddings (N, D) of the same shape, got "
            f"{tuple(first.shape)} and {tuple(second.shape)}"
        )
    number = len(first)
    if hard_negatives is not None and len(hard_negatives) != number:
        raise InputError(
            f"every image needs hard negatives of its own: {number} images, "
            f"{len(hard_negatives)} rows of hard negatives"
        )
    if crops is not None and (crops.shape[1:] != first.shape[1:] or len(crops) % number):
        raise InputError(
            f"crops are rows (L·{number}, {first.shape[1]}), as many of every image, got "
            f"{tuple(crops.shape)}"
        )
    batch = torch.cat([first, second])
    anchors = batch if crops is None else torch.cat([batch, crops])
    of_image = len(anchors) // number
    if negatives is not None and negatives.shape[1:] != first.shape[1:]:
        raise InputError(f"negatives are rows (K, {first.shape[1]}), got {tuple(negatives.shape)}")
    rows = batch if negatives is None else torch.cat([batch, negatives])
    logits = contrast_logits(
        anchors,
        torch.cat([second, first, *[second] * (of_image - 2)]),
        rows,
        None if hard_negatives is None else torch.cat([hard_negatives] * of_image),
        penalty,
        temperature,
    )
    same_image = torch.eye(number, dtype=torch.bool, device=logits.device).repeat(of_image, 2)
    logits[:, 1 : 1 + 2 * number].masked_fill_(same_image, float("-inf"))
    return logits


@overload
def nt_xent(
    first: Tensor,
    second: Tensor,
    hard_negatives: Tensor | None = None,
    penalty: float = 2.0,
    temperature: float = 0.1,
    negatives: Tensor | None = None,
    crops: Tensor | None = None,
) -> Tensor: ...
@overload
def nt_xent(*args: Any, with_logits: Literal[True], **options: Any) -> tuple[Tensor, Tensor]: ...
def nt_xent(  # type: ignore[misc]  # the second form takes the arguments of the first
    first: Tensor,
    second: Tensor,
    hard_negatives: Tensor | None = None,
    penalty: float = 2.0,
    temperature: float = 0.1,
    negatives: Tensor | None = None,
    crops: Tensor | None = None,
    with_logits: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Mean of −log of the positive's share over the anchors: 2N views and the crops.

    For anchor a of image i with positive p, and z running over the views of other images:
    −log( e^{a·p/τ} / (e^{a·p/τ} + Σ_z e^{a·z/τ} + Σ_m e^{ρ·a·h_im/τ}) ). The other arguments and
    the errors are those of :func:`nt_xent_logits`.

    Args:
        with_logits: also return the logits, of which accuracies are counted.

    Returns:
        float32 scalar; with ``with_logits`` that and the logits, float32 ((2 + L)·N, 1 + 2N + K +
        M).
    """
    logits = nt_xent_logits(first, second, hard_negatives, penalty, temperature, negatives, crops)
    loss = first_against_rest(logits)
    return (loss, logits) if with_logits else loss
