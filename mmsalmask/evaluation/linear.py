"""Linear evaluation on features that were extracted once: many learning rates in one pass.

A linear classifier on a frozen backbone sees the same feature of an image in every epoch unless the
image is augmented anew. So the features of centre crops are computed once, and a stack of
classifiers, one for each learning rate and weight decay, is trained on them at once: all logits of
a batch are one matrix product. Each classifier of the stack becomes what ``torch.nn.Linear`` and
``torch.optim.SGD`` make of it alone.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsalmask.data import split_share
from mmsalmask.errors import InputError
from mmsalmask.evaluation.accuracy import accuracies, count_by_class
from mmsalmask.evaluation.features import LabelledFeatures

LEARNING_RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


class Recipe(NamedTuple):
    """SGD for linear classifiers; by default that of MoCo's linear evaluation.

    Attributes:
        epochs: over the training images, in a new order each.
        batch_size: the last batch of an epoch may be smaller.
        momentum: without dampening, not Nesterov's.
        schedule: ``"step"`` divides the learning rate by 10 after 60 % and 80 % of the epochs,
            ``"cosine"`` lets it fall to 0, epoch by epoch.
    """

    epochs: int = 100
    batch_size: int = 256
    momentum: float = 0.9
    schedule: Literal["step", "cosine"] = "step"

    def factor(self, epoch: int) -> float:
        """What the learning rate is multiplied with in an epoch, counted from 0."""
        if self.schedule == "cosine":
            return (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return 0.1 ** sum(10 * epoch >= tenths * self.epochs for tenths in (6, 8))


MOCO_RECIPE = Recipe()


class Stack(NamedTuple):
    """S linear classifiers: ``weight`` (S, C, D) and ``bias`` (S, C)."""

    weight: Tensor
    bias: Tensor

    def classify(self, features: Tensor, chunk: int = 4096) -> Tensor:
        """Predicted classes (S, N), int64, of features (N, D)."""
        flat = self.weight.flatten(0, 1)
        return torch.cat(
            [
                torch.addmm(self.bias.flatten(), part, flat.T)
                .view(-1, *self.bias.shape)
                .argmax(2)
                .T
                for part in features.split(chunk)
            ],
            dim=1,
        )


@torch.enable_grad()
def fit_stack(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    learning_rates: Sequence[float],
    weight_decays: Sequence[float],
    recipe: Recipe = MOCO_RECIPE,
    seed: int = 0,
) -> Stack:
    """Train a linear classifier for each pair of a learning rate and a weight decay, all at once.

    Args:
        features: (N, D), floating point.
        labels: Classes (N,), int64, in [0, num_classes).
        num_classes: C.
        learning_rates, weight_decays: One of each for every classifier, S of them.
        recipe: The same for all.
        seed: Of the first weights, N(0, 0.01²), biases being 0, and of the order of the images;
            both are the same for all classifiers.

    Returns:
        The trained classifiers, on the device of ``features``.
    """
    generator = torch.Generator().manual_seed(seed)
    first = 0.01 * torch.randn(num_classes, features.shape[1], generator=generator)
    number = len(learning_rates)
    weight = first.to(features).expand(number, -1, -1).clone().requires_grad_()
    bias = weight.new_zeros(number, num_classes, requires_grad=True)
    speeds = torch.zeros_like(weight), torch.zeros_like(bias)
    rates, decays = weight.new_tensor(learning_rates), weight.new_tensor(weight_decays)
    for epoch in range(recipe.epochs):
        step = rates * recipe.factor(epoch)
        order = torch.randperm(len(features), generator=generator).to(features.device)
        for batch in order.split(recipe.batch_size):
            logits = torch.addmm(bias.flatten(), features[batch], weight.flatten(0, 1).T)
            true = labels[batch].repeat_interleave(number)
            # The sum over classifiers of their mean losses, whose gradients do not mix.
            loss = F.cross_entropy(logits.view(-1, num_classes), true, reduction="sum") / len(batch)
            loss.backward()
            for value, speed in zip((weight, bias), speeds, strict=True):
                _descend(value, speed, step, decays, recipe.momentum)
    return Stack(weight.detach(), bias.detach())


@torch.no_grad()
def _descend(value: Tensor, speed: Tensor, step: Tensor, decay: Tensor, momentum: float) -> None:
    """A step of ``torch.optim.SGD`` in place, which has one rate for all of a tensor.

    ``step`` and ``decay`` (S,) belong to the first dimension.
    """
    shape = (-1, *[1] * (value.dim() - 1))
    speed.mul_(momentum).add_(value.grad.addcmul_(decay.view(shape), value))
    value.sub_(step.view(shape) * speed)
    value.grad = None


class Trial(NamedTuple):
    """One pair that was tried, and its accuracies on the images held out, in percent."""

    learning_rate: float
    weight_decay: float
    top1: float
    mean_per_class: float


def choose(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    learning_rates: Sequence[float] = LEARNING_RATES,
    weight_decays: Sequence[float] = (0.0,),
    held_out: float = 0.2,
    recipe: Recipe = MOCO_RECIPE,
    seed: int = 0,
) -> tuple[Trial, list[Trial]]:
    """Try all pairs on a part of the training images and measure them on the rest.

    Args:
        features, labels: The training images; test images have no business here.
        learning_rates, weight_decays: Every pair of both is tried.
        held_out: Share of each class that is measured on, in (0, 1); at least one image of it is
            trained on.
        seed: As in :func:`fit_stack`, and of the split.

    Returns:
        The best by top-1 accuracy (the first of equally good ones), and all in the order tried.

    Raises:
        InputError: For impossible values, and if nothing can be held out.
    """
    check_settings(learning_rates, weight_decays, recipe, held_out)
    part, rest = split_share(labels.cpu(), held_out, seed)
    if not rest:
        raise InputError(
            f"{len(labels)} training images are too few to hold out {held_out:.0%} of each class: "
            "give more images, or a single learning rate and weight decay"
        )
    pairs = list(itertools.product(learning_rates, weight_decays))
    rates, decays = zip(*pairs, strict=True)
    stack = fit_stack(features[part], labels[part], num_classes, rates, decays, recipe, seed)
    predicted = stack.classify(features[rest])
    figures = accuracies(*count_by_class(predicted, labels[rest], num_classes))
    trials = [Trial(*pair, *both) for pair, *both in zip(pairs, *figures, strict=True)]
    return max(trials, key=lambda trial: trial.top1), trials


def evaluate_linear(
    features: LabelledFeatures,
    num_classes: int,
    learning_rates: Sequence[float] = LEARNING_RATES,
    weight_decays: Sequence[float] = (0.0,),
    held_out: float = 0.2,
    recipe: Recipe = MOCO_RECIPE,
    seed: int = 0,
) -> dict:
    """Choose on a held-out part of the training images, refit on all of them, test once.

    A single pair of learning rate and weight decay is taken without trials.

    Returns:
        ``top1`` and ``mean_per_class`` of the test images in percent, their ``predicted`` classes,
        ``learning_rate`` and ``weight_decay`` chosen, and ``trials``, each a dict of
        :class:`Trial`.

    Raises:
        InputError: For impossible values, and for features that are not finite.
    """
    check_settings(learning_rates, weight_decays, recipe, held_out)
    if not (features.train.isfinite().all() and features.test.isfinite().all()):
        raise InputError(
            "some features are not finite numbers; look for a diverged run behind this checkpoint"
        )
    if len(learning_rates) * len(weight_decays) == 1:
        rate, decay, trials = learning_rates[0], weight_decays[0], []
    else:
        best, trials = choose(
            features.train,
            features.train_labels,
            num_classes,
            learning_rates,
            weight_decays,
            held_out,
            recipe,
            seed,
        )
        rate, decay = best.learning_rate, best.weight_decay
    stack = fit_stack(
        features.train, features.train_labels, num_classes, [rate], [decay], recipe, seed
    )
    predicted = stack.classify(features.test)
    counts = count_by_class(predicted, features.test_labels, num_classes)
    (top1,), (per_class,) = accuracies(*counts)
    return {
        "top1": top1,
        "mean_per_class": per_class,
        "predicted": predicted[0].tolist(),
        "learning_rate": rate,
        "weight_decay": decay,
        "trials": [trial._asdict() for trial in trials],
    }


def check_settings(
    learning_rates: Sequence[float],
    weight_decays: Sequence[float],
    recipe: Recipe,
    held_out: float,
) -> None:
    """Refuse what no classifier can be trained with, before there are features to train it on."""
    if not learning_rates or min(learning_rates) <= 0:
        raise InputError(f"learning rates must be positive, got {list(learning_rates)}")
    if not weight_decays or min(weight_decays) < 0:
        raise InputError(f"weight decays must not be negative, got {list(weight_decays)}")
    if min(recipe.epochs, recipe.batch_size) < 1 or not 0 <= recipe.momentum < 1:
        raise InputError(
            "epochs and batch size must be at least 1 and the momentum in [0, 1), got "
            f"{recipe.epochs}, {recipe.batch_size} and {recipe.momentum}"
        )
    if recipe.schedule not in ("step", "cosine"):
        raise InputError(f"the schedule must be 'step' or 'cosine', got {recipe.schedule!r}")
    if not 0 < held_out < 1:
        raise InputError(f"the share held out is {held_out}; give one between 0 and 1")
