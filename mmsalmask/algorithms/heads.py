"""Heads: from embeddings to losses and what is logged beside them."""

from mmengine.model import BaseModule
from torch import Tensor

from mmsalmask.losses import info_nce, nt_xent
from mmsalmask.losses.info_nce import check_scales
from mmsalmask.registry import MODELS


@MODELS.register_module()
class HardNegativeContrastiveHead(BaseModule):
    """InfoNCE with hard negatives and the contrast accuracy (paper, eq. 3).

    Args:
        temperature: τ.
        penalty: ρ, factor on the similarity to a hard negative.

    Raises:
        InputError: for τ ≤ 0, and a ρ that is no finite number.
    """

    def __init__(self, temperature: float = 0.2, penalty: float = 2.0) -> None:
        super().__init__()
        check_scales(temperature, penalty)
        self.temperature = temperature
        self.penalty = penalty

    def loss(
        self,
        query: Tensor,
        key: Tensor,
        negatives: Tensor,
        hard_negatives: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss and accuracy of a batch.

        Args:
            query, key: (N, D), ℓ2-normalised.
            negatives: (K, D), ℓ2-normalised.
            hard_negatives: (N, M, D), ℓ2-normalised, or ``None``.
            weight: of each query's loss before the mean over N is taken, (N,); 1 by default.

        Returns:
            ``loss``; ``contrast_accuracy``, the percentage of queries closer to their key than to
            any negative of another image; with hard negatives ``hard_accuracy``, the percentage
            closer to their key than to any hard negative of their own.
        """
        loss, logits = info_nce(
            query,
            key,
            negatives,
            hard_negatives,
            self.penalty,
            self.temperature,
            weight,
            with_logits=True,
        )
        return {"loss": loss, **_accuracies(logits, hard_negatives, self.penalty)}


@MODELS.register_module()
class NTXentHead(BaseModule):
    """NT-Xent with hard negatives and the contrast accuracy (Chen et al. 2020; paper, §3).

    Args:
        temperature: τ.
        penalty: ρ, factor on the similarity to a hard negative.

    Raises:
        InputError: for τ ≤ 0, and a ρ that is no finite number.
    """

    def __init__(self, temperature: float = 0.1, penalty: float = 2.0) -> None:
        super().__init__()
        check_scales(temperature, penalty)
        self.temperature = temperature
        self.penalty = penalty

    def loss(
        self,
        first: Tensor,
        second: Tensor,
        hard_negatives: Tensor | None = None,
        negatives: Tensor | None = None,
        crops: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss and accuracy of a batch of view pairs.

        Args:
            first, second: (N, D), ℓ2-normalised.
            hard_negatives: (N, M, D), ℓ2-normalised, or ``None``.
            negatives: (K, D), ℓ2-normalised, of images outside this batch, or ``None``.
            crops: (L·N, D), ℓ2-normalised, further anchors, or ``None``.

        Returns:
            ``loss``; ``contrast_accuracy``, the percentage of the 2N views closer to the image's
            other view than to any negative of another image; with hard negatives
            ``hard_accuracy``, the percentage closer to it than to any hard negative of the image;
            with crops ``local_accuracy``, theirs.
        """
        loss, logits = nt_xent(
            first,
            second,
            hard_negatives,
            self.penalty,
            self.temperature,
            negatives,
            crops,
            with_logits=True,
        )
        views, local = logits[: 2 * len(first)], logits[2 * len(first) :]
        found = {"loss": loss, **_accuracies(views, hard_negatives, self.penalty)}
        if crops is not None:
            of_crops = _accuracies(local, hard_negatives, self.penalty)
            found["local_accuracy"] = of_crops["contrast_accuracy"]
        return found


def _accuracies(logits: Tensor, hard_negatives: Tensor | None, penalty: float) -> dict[str, Tensor]:
    """Accuracies of logits whose columns are the positive, negatives, then hard negatives.

    Hard negatives have an accuracy of their own: multiplied by ρ, they are nearer than the key for
    most of a training, and a single accuracy over all columns would show only that.
    """
    hard = 0 if hard_negatives is None else hard_negatives.shape[1]
    key, others, own = logits.detach().split([1, logits.shape[1] - 1 - hard, hard], dim=1)
    # A comparison with NaN is False: logits that are not finite count as mistakes.
    found = {"contrast_accuracy": 100 * (key > others).all(1).float().mean()}
    if hard and penalty > 0:  # else the logits do not say how near a hard negative is
        found["hard_accuracy"] = 100 * (penalty * key > own).all(1).float().mean()
    return found
