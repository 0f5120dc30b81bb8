"""Measures of features that need no labels, computed in float64."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsalmask.errors import InputError


def rank_me(features: Tensor) -> float:
    """RankMe (Garrido et al., ICML 2023): exp of the entropy of the singular values.

    With p_i = σ_i / Σσ, it is exp(−Σ p_i log p_i), in [1, min(N, D)]: as many directions as would
    be used if all were used alike.

    Args:
        features: (N, D), finite, not all 0.

    Raises:
        InputError: fewer than two rows, or values that are not finite.
    """
    return _entropy_rank(torch.linalg.svdvals(_checked(features)))


def effective_rank(features: Tensor) -> float:
    """The same of the covariance's eigenvalues: what the images differ in, their mean apart."""
    centred = _checked(features) - features.double().mean(0)
    return _entropy_rank(torch.linalg.svdvals(centred).square())


def _entropy_rank(values: Tensor) -> float:
    total = values.sum()
    if total == 0:
        return 1.0
    return torch.special.entr(values / total).sum().exp().item()


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean squared distance of two views of an image on the sphere (Wang and Isola, ICML 2020).

    Args:
        first, second: (N, D), row i of both being views of image i.

    Returns:
        In [0, 4]; 0 if views of an image have one feature.
    """
    difference = _on_sphere(first) - _on_sphere(second)
    return difference.square().sum(1).mean().item()


def uniformity(features: Tensor, chunk: int = 1024) -> float:
    """log of the mean of exp(−2·d²) over all pairs of images, d on the sphere (same paper).

    Returns:
        At most 0, which is collapse; the lower, the more evenly the sphere is covered.
    """
    points = _on_sphere(features)
    total = sum(
        torch.exp(-2 * (2 - 2 * rows @ points.T).clamp(min=0)).sum() for rows in points.split(chunk)
    )
    number = len(points)
    return torch.log((total - number) / (number * (number - 1))).item()


def mean_distance(features: Tensor) -> float:
    """Mean squared distance of two different images on the sphere, in [0, 4]."""
    points = _on_sphere(features)
    number = len(points)
    # Σ over all pairs of ‖x − y‖² = 2·N² − 2·‖Σx‖²
    total = 2 * number**2 - 2 * points.sum(0).square().sum()
    return (total / (number * (number - 1))).clamp(min=0).item()


def spread(features: Tensor) -> float:
    """√D times the mean over dimensions of the std over images, on the sphere.

    SimSiam's check for collapse (Chen and He, CVPR 2021): 0 if all images have one feature, 1 if
    they cover the sphere evenly.
    """
    points = _on_sphere(features)
    return (points.std(0, correction=0).mean() * points.shape[1] ** 0.5).item()


def nearest_similarities(
    features: Tensor, k: int = 1, chunk: int = 1024, of: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The k most similar others of each image, or of some.

    Args:
        features: (N, D).
        k: from 1 to N − 1.
        of: (M,) indices of the images whose neighbours are wanted; ``None`` for all N.

    Returns:
        Cosine similarities (M, k), float64, the largest first, and indices (M, k), int64.

    Raises:
        InputError: there are not so many others.
    """
    points = _on_sphere(features)
    if not 1 <= k < len(points):
        raise InputError(
            f"{len(points)} images have {len(points) - 1} neighbours each, not {k}: give more "
            "images or a smaller k"
        )
    values, indices = [], []
    places = torch.arange(len(points)) if of is None else of
    for own in places.split(chunk):
        similar = points[own] @ points.T
        similar[torch.arange(len(own)), own] = -torch.inf
        found = similar.topk(k, dim=1)
        values.append(found.values)
        indices.append(found.indices)
    return torch.cat(values), torch.cat(indices)


def near_duplicates(features: Tensor, threshold: float = 0.98) -> float:
    """Share of images with another one at least this similar (cosine), in [0, 1]."""
    similarities, _ = nearest_similarities(features)
    return (similarities[:, 0] >= threshold).double().mean().item()


def _on_sphere(features: Tensor) -> Tensor:
    return F.normalize(_checked(features), dim=1)


def _checked(features: Tensor) -> Tensor:
    if features.ndim != 2 or len(features) < 2:
        raise InputError(
            f"features of shape {tuple(features.shape)} cannot be compared: at least two images "
            "are needed"
        )
    if not features.isfinite().all():
        raise InputError(
            "some features are not finite numbers: look for a diverged run behind this checkpoint"
        )
    return features.double()
