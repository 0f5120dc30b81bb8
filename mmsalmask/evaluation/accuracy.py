"""Top-1 accuracy over images, and its mean over classes."""

import torch
from torch import Tensor

from mmsalmask.errors import InputError


def count_by_class(predicted: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """How many images of each class are predicted right, and how many there are.

    Args:
        predicted: Classes (P, Q) that P classifiers give to Q images, int64.
        labels: True classes (Q,), int64, in [0, num_classes).

    Returns:
        Counts (P, C) and (C,), int64. They may be summed over processes.
    """
    right = labels.new_zeros(len(predicted), num_classes)
    right.scatter_add_(1, labels.expand_as(predicted), (predicted == labels).long())
    return right, torch.bincount(labels, minlength=num_classes)


def accuracies(right: Tensor, total: Tensor) -> tuple[list[float], list[float]]:
    """Top-1 and mean per-class accuracy of each classifier, in percent.

    The mean is over the classes that occur.

    Args:
        right, total: As :func:`count_by_class` gives them.

    Raises:
        InputError: If nothing was counted.
    """
    occurs = total > 0
    if not occurs.any():
        raise InputError("There are no images to classify.")
    per_class = right[:, occurs].double() / total[occurs]
    top1 = 100.0 * right.sum(1).double() / total.sum()
    return top1.tolist(), (100.0 * per_class.mean(1)).tolist()


def accuracy(predicted: Tensor, labels: Tensor) -> tuple[float, float]:
    """Share of correct predictions over all images, and its mean over the classes that occur.

    Args:
        predicted: Predicted classes (Q,).
        labels: True classes (Q,), not negative.

    Returns:
        Top-1 accuracy and mean per-class accuracy, both in percent, in [0, 100].

    Raises:
        InputError: If they are not vectors of one length above 0.
    """
    if predicted.shape != labels.shape or labels.numel() == 0:
        raise InputError(
            f"{tuple(predicted.shape)} predictions cannot be scored against "
            f"{tuple(labels.shape)} labels; both must be vectors of one length above 0."
        )
    (top1,), (per_class,) = accuracies(
        *count_by_class(predicted[None], labels, int(labels.max()) + 1)
    )
    return top1, per_class
