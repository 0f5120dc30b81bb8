"""InfoNCE with hard negatives (paper, eq. 3)."""

from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsalmask.checks import is_number
from mmsalmask.device import without_autocast
from mmsalmask.errors import InputError


def contrast_logits(
    query: Tensor,
    key: Tensor,
    negatives: Tensor,
    hard_negatives: Tensor | None = None,
    penalty: float = 2.0,
    temperature: float = 0.2,
) -> Tensor:
    """Similarities over τ: column 0 the positive, then the negatives, then the hard negatives.

    Args:
        query, key: (N, D), ℓ2-normalised.
        negatives: (K, D), ℓ2-normalised, shared by all queries.
        hard_negatives: (N, D) or (N, M, D), ℓ2-normalised, row i belonging to query i alone.
        penalty: ρ, factor on the similarity to a hard negative.
        temperature: τ > 0.

    Returns:
        float32 (N, 1 + K + M).

    Raises:
        InputError: for τ ≤ 0, a ρ that is no finite number, shapes other than these, or hard
            negatives that are not one row per query.
    """
    check_scales(temperature, penalty)
    _check_shapes(query, key, negatives, hard_negatives)
    # In half precision e^{q·k/τ} at small τ loses what distinguishes the negatives.
    with without_autocast(query.device):
        query, key, negatives = query.float(), key.float(), negatives.float()
        logits = [(query * key).sum(1, keepdim=True), query @ negatives.t()]
        if hard_negatives is not None:
            own = hard_negatives.float().view(len(query), -1, query.shape[1])
            logits.append(penalty * torch.einsum("nd,nmd->nm", query, own))
        return torch.cat(logits, dim=1) / temperature


def _check_shapes(
    query: Tensor, key: Tensor, negatives: Tensor, hard_negatives: Tensor | None
) -> None:
    if query.ndim != 2 or query.shape != key.shape:
        raise InputError(
            "queries and keys are embeddings (N, D) of the same shape, got "
            f"{tuple(query.shape)} and {tuple(key.shape)}"
        )
    width = query.shape[1]
    if negatives.ndim != 2 or negatives.shape[1] != width:
        transposed = negatives.ndim == 2 and len(negatives) == width
        raise InputError(
            f"negatives are rows (K, {width}), as long as a query, got {tuple(negatives.shape)}"
            + (": transpose the queue" if transposed else "")
        )
    if hard_negatives is None:
        return
    if len(hard_negatives) != len(query):
        raise InputError(
            f"every query needs hard negatives of its own: {len(query)} queries, "
            f"{len(hard_negatives)} rows of hard negatives"
        )
    if hard_negatives.ndim not in (2, 3) or hard_negatives.shape[-1] != width:
        raise InputError(
            f"hard negatives are embeddings (N, {width}) or (N, M, {width}), got "
            f"{tuple(hard_negatives.shape)}"
        )


def check_scales(temperature: float, penalty: float) -> None:
    """Refuse a temperature that is not positive, and either that is no finite number."""
    if not is_number(temperature, 0) or temperature == 0:
        raise InputError(f"temperature must be positive, got {temperature!r}")
    if not is_number(penalty):
        raise InputError(f"penalty must be a finite number, got {penalty!r}")
    if not is_number(max(1, abs(penalty)) / temperature):
        raise InputError(
            f"a temperature of {temperature!r} with a penalty of {penalty!r} makes similarities "
            "that are infinite in float32: give a larger temperature or a smaller penalty"
        )


@overload
def info_nce(
    query: Tensor,
    key: Tensor,
    negatives: Tensor,
    hard_negatives: Tensor | None = None,
    penalty: float = 2.0,
    temperature: float = 0.2,
    weight: Tensor | None = None,
) -> Tensor: ...
@overload
def info_nce(*args: Any, with_logits: Literal[True], **options: Any) -> tuple[Tensor, Tensor]: ...
def info_nce(  # type: ignore[misc]  # the second form takes the arguments of the first
    query: Tensor,
    key: Tensor,
    negatives: Tensor,
    hard_negatives: Tensor | None = None,
    penalty: float = 2.0,
    temperature: float = 0.2,
    weight: Tensor | None = None,
    with_logits: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Mean over i of −log( e^{q·k/τ} / (e^{q·k/τ} + Σ_n e^{q·n/τ} + Σ_m e^{ρ·q·h_m/τ}) ).

    The other arguments and the errors are those of :func:`contrast_logits`.

    Args:
        weight: of each query's loss before the mean over N is taken, (N,); 1 by default.
        with_logits: also return the logits, of which accuracies are counted.

    Returns:
        float32 scalar; with ``with_logits`` that and the logits, float32 (N, 1 + K + M).
    """
    logits = contrast_logits(query, key, negatives, hard_negatives, penalty, temperature)
    loss = first_against_rest(logits, weight)
    return (loss, logits) if with_logits else loss


def first_against_rest(logits: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean cross-entropy, a scalar, of rows (N, columns) whose column 0 is the true one.

    Args:
        weight: of each row before the mean is taken, (N,); 1 by default.
    """
    positive = logits.new_zeros(len(logits), dtype=torch.long)
    loss = F.cross_entropy(logits, positive, reduction="none")
    return (loss if weight is None else weight * loss).mean()
