"""Weighted k-nearest-neighbour accuracy of a frozen backbone (Wu et al., CVPR 2018)."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsalmask.errors import InputError


def knn_classify(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    k: int = 20,
    temperature: float = 0.07,
    num_classes: int | None = None,
    chunk: int = 1024,
) -> Tensor:
    """Classify each query by the vote of its ``k`` most similar bank entries.

    With s_i the cosine similarity of the query to neighbour i, class c gets
    ``sum_i [label_i = c] · exp(s_i / temperature)`` (their section 3.4); the largest sum wins, and
    the lowest label among equal sums. Which of several equally similar entries take the last of the
    ``k`` places is left open.

    Args:
        bank: Features (M, D), floating point, of any length (they are ℓ2-normalised here).
        bank_labels: Their classes (M,), integer, in [0, num_classes).
        queries: Features (Q, D), same dtype and device as ``bank``.
        k: Number of neighbours that vote, from 1 to M.
        temperature: Positive; the smaller, the more the nearest neighbours count.
        num_classes: Number of classes; one more than the largest bank label when ``None``.
        chunk: Queries compared at a time; memory grows with ``chunk * M``, the result does not
            depend on it.

    Returns:
        Predicted classes (Q,), int64, on the device of ``queries``.

    Raises:
        InputError: If shapes, ``k``, ``temperature``, ``chunk`` or labels are out of range, or a
            feature is not a finite number.
    """
    if num_classes is None:
        num_classes = int(bank_labels.max()) + 1 if bank_labels.numel() else 0
    _check(bank, bank_labels, queries, k, temperature, num_classes, chunk)
    bank = F.normalize(bank, dim=1)
    bank_labels = bank_labels.long()
    predicted = []
    for part in F.normalize(queries, dim=1).split(chunk):
        similarity, neighbours = (part @ bank.T).topk(k, dim=1)
        # Taking the nearest neighbour's similarity away scales a query's votes alike and keeps exp
        # finite at any temperature.
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
        votes = weights.new_zeros(len(part), num_classes)
        votes.scatter_add_(1, bank_labels[neighbours], weights)
        predicted.append(votes.argmax(dim=1))
    return torch.cat(predicted)


def _check(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    k: int,
    temperature: float,
    num_classes: int,
    chunk: int,
) -> None:
    if bank.dim() != 2 or queries.dim() != 2 or bank.shape[1] != queries.shape[1]:
        raise InputError(
            f"Bank {tuple(bank.shape)} and queries {tuple(queries.shape)} must both be matrices "
            "with the same number of columns."
        )
    if bank_labels.shape != bank.shape[:1]:
        raise InputError(
            f"{len(bank)} bank features need as many labels, not {tuple(bank_labels.shape)}."
        )
    if not 1 <= k <= len(bank):
        raise InputError(
            f"k = {k} neighbours cannot be drawn from a bank of {len(bank)}; "
            f"give k from 1 to {len(bank)}."
        )
    if not temperature > 0:
        raise InputError(f"The kNN temperature is {temperature}; give a positive one.")
    if chunk < 1:
        raise InputError(f"The kNN chunk is {chunk} queries; give at least 1.")
    if bank_labels.min() < 0 or bank_labels.max() >= num_classes:
        raise InputError(
            f"Bank labels run from {int(bank_labels.min())} to {int(bank_labels.max())}, which "
            f"does not fit {num_classes} classes numbered from 0."
        )
    if not (bank.isfinite().all() and queries.isfinite().all()):
        raise InputError(
            "Some features are not finite numbers; look for a diverged run behind this checkpoint."
        )


@torch.no_grad()
def extract_features(
    backbone: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Global average of the backbone's last feature map, for every image of ``loader``.

    The backbone runs in eval mode and is handed back with every submodule in the mode it had.

    Args:
        backbone: Maps images (N, 3, H, W) to a feature map (N, D, h, w), or to a sequence of them
            of which the last counts, as mmpretrain's backbones do. It must be on ``device``.
        loader: Yields normalised images (N, 3, H, W) and their classes (N,).
        device: Where the images are sent.

    Returns:
        Features (M, D), float32, and classes (M,), int64, both on ``device``, in the given order.

    Raises:
        InputError: If the loader yields nothing.
    """
    modes = [(module, module.training) for module in backbone.modules()]
    backbone.eval()
    features, labels = [], []
    try:
        for images, classes in loader:
            maps = backbone(images.to(device, non_blocking=True))
            last = maps[-1] if isinstance(maps, (tuple, list)) else maps
            features.append(last.float().mean(dim=(2, 3)))
            labels.append(classes.to(device, torch.int64))
    finally:
        for module, training in modes:
            module.training = training
    if not features:
        raise InputError("There are no images to take features from.")
    return torch.cat(features), torch.cat(labels)


def knn_accuracy(predicted: Tensor, labels: Tensor) -> tuple[float, float]:
    """Share of correct predictions over all images, and its mean over the classes that occur.

    Args:
        predicted: Predicted classes (Q,).
        labels: True classes (Q,), not negative.

    Returns:
        Top-1 accuracy and mean per-class accuracy, both in percent, in [0, 100].
    """
    if predicted.shape != labels.shape or labels.numel() == 0:
        raise InputError(
            f"{tuple(predicted.shape)} predictions cannot be scored against "
            f"{tuple(labels.shape)} labels; both must be vectors of one length above 0."
        )
    correct = (predicted == labels).double()
    total = torch.bincount(labels)
    right = torch.bincount(labels, weights=correct)
    occurs = total > 0
    per_class = right[occurs] / total[occurs]
    return 100.0 * correct.mean().item(), 100.0 * per_class.mean().item()
