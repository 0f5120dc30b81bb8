"""Weighted k-nearest-neighbour accuracy of a frozen backbone (Wu et al., CVPR 2018)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.evaluator import BaseMetric
from torch import Tensor

from mmsalmask.algorithms.distributed import gather_rows
from mmsalmask.checks import is_integer, is_number
from mmsalmask.errors import InputError
from mmsalmask.evaluation.accuracy import accuracies, count_by_class
from mmsalmask.registry import METRICS


def knn_classify(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    k: int = 20,
    temperature: float = 0.07,
    num_classes: int | None = None,
    chunk: int = 1024,
) -> Tensor:
    """Classify each query by the vote of its ``k`` most similar bank entries: (Q,).

    See :func:`knn_classify_each`, which does it for several k at once.
    """
    return knn_classify_each(
        bank, bank_labels, queries, (k,), temperature, num_classes=num_classes, chunk=chunk
    )[0]


def knn_classify_each(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    ks: Sequence[int] = (20, 200),
    temperature: float = 0.07,
    num_classes: int | None = None,
    chunk: int = 1024,
) -> Tensor:
    """Classify each query by the vote of its k most similar bank entries, for each k of ``ks``.

    With s_i the cosine similarity of the query to neighbour i, class c gets
    ``sum_i [label_i = c] · exp(s_i / temperature)`` (their section 3.4); the largest sum wins, and
    the lowest label among equal sums. Which of several equally similar entries take the last of the
    k places is left open. Neighbours are searched once, for the largest k.

    Args:
        bank: Features (M, D), floating point, of any length (they are ℓ2-normalised here).
        bank_labels: Their classes (M,), integer, in [0, num_classes).
        queries: Features (Q, D), same dtype and device as ``bank``.
        ks: Numbers of neighbours that vote, each from 1 to M.
        temperature: Positive; the smaller, the more the nearest neighbours count.
        num_classes: Number of classes; one more than the largest bank label when ``None``.
        chunk: Queries compared at a time; memory grows with ``chunk * M``, the result does not
            depend on it.

    Returns:
        Predicted classes (len(ks), Q), int64, on the device of ``queries``.

    Raises:
        InputError: If shapes, ``ks``, ``temperature``, ``chunk`` or labels are out of range, or a
            feature is not a finite number.
    """
    if num_classes is None:
        num_classes = int(bank_labels.max()) + 1 if bank_labels.numel() else 0
    _check(bank, bank_labels, queries, ks, temperature, num_classes, chunk)
    bank = F.normalize(bank, dim=1)
    bank_labels = bank_labels.long()
    predicted = []
    for part in F.normalize(queries, dim=1).split(chunk):
        similarity, neighbours = (part @ bank.T).topk(max(ks), dim=1)
        # Subtracting the nearest neighbour's similarity scales all votes of a query and keeps exp
        # finite at any temperature.
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
        labels = bank_labels[neighbours]
        no_votes = weights.new_zeros(len(part), num_classes)
        votes = [no_votes.scatter_add(1, labels[:, :k], weights[:, :k]) for k in ks]
        predicted.append(torch.stack([each.argmax(dim=1) for each in votes]))
    return torch.cat(predicted, dim=1)


def check_neighbours(ks: Sequence[int], bank_size: int) -> None:
    """Refuse numbers of neighbours that a bank of that size does not have."""
    for k in ks:
        if not 1 <= k <= bank_size:
            raise InputError(
                f"k = {k} neighbours cannot be drawn from a bank of {bank_size}; "
                f"give k from 1 to {bank_size}."
            )


def _check(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    ks: Sequence[int],
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
    check_neighbours(ks, len(bank))
    check_scale(temperature, chunk)
    if bank_labels.min() < 0 or bank_labels.max() >= num_classes:
        raise InputError(
            f"Bank labels run from {int(bank_labels.min())} to {int(bank_labels.max())}, which "
            f"does not fit {num_classes} classes numbered from 0."
        )
    if not (bank.isfinite().all() and queries.isfinite().all()):
        raise InputError(
            "Some features are not finite numbers; look for a diverged run behind this checkpoint."
        )


def check_scale(temperature: float, chunk: int = 1) -> None:
    """Refuse a temperature, or a number of queries compared at a time, that is none."""
    if not is_number(temperature, 0) or temperature == 0:
        raise InputError(f"The kNN temperature is {temperature!r}; give a positive one.")
    if not is_integer(chunk, 1):
        raise InputError(f"The kNN chunk is {chunk!r} queries; give at least 1.")


@METRICS.register_module()
class KNNMetric(BaseMetric):
    """Top-1 and mean per-class accuracy of :func:`knn_classify_each`, over all processes.

    The bank is gathered into every process, each classifies its own queries, and counts are summed:
    the figures are those of a single process. Features stay on their device.

    Figures, in percent: ``knn_top1`` and ``knn_mean_per_class`` for the first ``k``, and for each
    other one the same with its number, ``knn_top1_k200``.

    Args:
        k: Numbers of neighbours.
        temperature, chunk: As in :func:`knn_classify_each`.
        collect_device, prefix: As in mmengine.

    Raises:
        InputError: For invalid settings; on evaluation, if there are no queries, and whenever
            :func:`knn_classify_each` raises it.
    """

    default_prefix = ""  # the names say it

    def __init__(
        self,
        k: int | Sequence[int] = (20, 200),
        temperature: float = 0.07,
        chunk: int = 1024,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        ks = (k,) if isinstance(k, int) else k
        several = isinstance(ks, Sequence) and not isinstance(ks, str) and len(ks) > 0
        if not several or not all(is_integer(one, 1) for one in ks):
            raise InputError(f"k must be a number of neighbours, or a list of them, got {k!r}")
        check_scale(temperature, chunk)
        self.k = tuple(ks)
        self.temperature = temperature
        self.chunk = chunk

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Take a batch of samples: ``feature`` (D,), ``gt_label`` and ``in_bank``, a bool each."""
        self.add(
            torch.stack([sample["feature"] for sample in data_samples]),
            torch.cat([torch.as_tensor(sample["gt_label"]).view(1) for sample in data_samples]),
            torch.tensor([bool(sample["in_bank"]) for sample in data_samples]),
        )

    def add(self, features: Tensor, labels: Tensor, in_bank: Tensor) -> None:
        """Take features (N, D), their classes (N,) and whether they are bank or query (N,)."""
        device = features.device
        self.results.append((features, labels.to(device, torch.int64), in_bank.to(device)))

    def evaluate(self, size: int) -> dict[str, float]:
        """The figures.

        Args:
            size: Number of images over all processes, without those that a sampler repeated to
                give all processes the same number.
        """
        if not self.results:
            raise InputError(f"kNN over {get_world_size()} processes needs an image for each.")
        own = -(-(size - get_rank()) // get_world_size())  # every world_size-th image is here
        features, labels, in_bank = (
            torch.cat(parts)[:own] for parts in zip(*self.results, strict=True)
        )
        self.results.clear()
        num_classes = int(gather_rows(labels).max()) + 1
        predicted = knn_classify_each(
            gather_rows(features[in_bank]),
            gather_rows(labels[in_bank]),
            features[~in_bank],
            self.k,
            self.temperature,
            num_classes,
            self.chunk,
        )
        counts = count_by_class(predicted, labels[~in_bank], num_classes)
        for count in counts:
            all_reduce(count)
        return self.compute_metrics(counts)

    def compute_metrics(self, results: tuple[Tensor, Tensor]) -> dict[str, float]:
        """Name the accuracies of counts over all processes, (K, C) right ones and (C,) images."""
        figures = {}
        for k, top1, per_class in zip(self.k, *accuracies(*results), strict=True):
            ending = "" if k == self.k[0] else f"_k{k}"
            figures |= {f"knn_top1{ending}": top1, f"knn_mean_per_class{ending}": per_class}
        return {f"{self.prefix}/{name}" if self.prefix else name: figures[name] for name in figures}
