"""Linear evaluation of a backbone, pretrained or untrained, on labelled image folders, in minutes.

Features of centre crops are extracted once; a linear classifier for each learning rate and weight
decay is trained on a part of the training images, all of them at once. The best on the training
images held out is trained again on all of them, and tested once. configs/linear has the recipes
that augment images anew in every epoch, as the published figures do.

Give a folder of training and one of test images (--train, --test), each with a subfolder per class;
or one folder (--train) of which --train-per-class images of every class, drawn by --seed, are for
training and the others for the test.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmsalmask.cli import Parser, config_arguments, labelled_arguments, report_errors
from mmsalmask.evaluation.accuracy import accuracy
from mmsalmask.evaluation.features import features_for
from mmsalmask.evaluation.knn import knn_classify
from mmsalmask.evaluation.linear import LEARNING_RATES, Recipe, check_settings, evaluate_linear
from mmsalmask.provenance import provenance, write_result


def linear(
    config: str,
    checkpoint: str,
    train: str,
    test: str | None = None,
    train_per_class: int | None = None,
    lr: Sequence[float] = LEARNING_RATES,
    weight_decay: Sequence[float] = (0.0,),
    epochs: int = 100,
    schedule: str = "step",
    held_out: float = 0.2,
    knn: int | None = None,
    each: bool = False,
    size: int | None = None,
    seed: int = 0,
    batch_size: int = 100,
    workers: int = 2,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> dict:
    """Accuracy of a linear classifier on the features of a backbone.

    Args:
        lr: learning rates to try, for batches of 256.
        weight_decay: weight decays to try.
        epochs: of each classifier's training.
        schedule: ``"step"``, a tenth after 60 % and 80 % of the epochs, or ``"cosine"``.
        held_out: share of the training images that learning rate and weight decay are chosen by.
        knn: also classify by so many neighbours, on the same features.
        each: also return which test images are classified right, see :func:`to_bits`.

    The other arguments are those of :func:`mmsalmask.evaluation.features.features_for`.

    Returns:
        ``top1`` and ``mean_per_class`` in percent, the trials, and all that they depend on.

    Raises:
        InputError: for a config, checkpoint, folder or number that will not do.

    Example::

        config = "mmsalmask::demo/mocov2_resnet18_demo.py"
        print(linear(config, "epoch_9.pth", "photos", train_per_class=30)["top1"])
    """
    origin = provenance(seed)
    recipe = Recipe(epochs=epochs, schedule=schedule)
    check_settings(lr, weight_decay, recipe, held_out)
    features, facts = features_for(
        config,
        checkpoint,
        train,
        test,
        train_per_class,
        size,
        seed,
        batch_size,
        workers,
        device,
        cfg_options,
        [] if knn is None else [knn],
    )
    result = evaluate_linear(features, facts["classes"], lr, weight_decay, held_out, recipe, seed)
    right = np.array(result.pop("predicted")) == features.test_labels.cpu().numpy()
    if each:
        result["right"] = to_bits(right)
    if knn is not None:
        neighbours = knn_classify(
            features.train,
            features.train_labels,
            features.test,
            knn,
            num_classes=facts["classes"],
        )
        top1, per_class = accuracy(neighbours, features.test_labels)
        result["knn"] = {"k": knn, "top1": top1, "mean_per_class": per_class}
    settings = {"recipe": recipe._asdict(), "held_out": held_out}
    return {**result, **facts, **settings, **origin}


def to_bits(right: np.ndarray) -> str:
    """Hexadecimal digits of a bool (N,): four images to a digit, the first in the highest bit."""
    return np.packbits(right).tobytes().hex()


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    config_arguments(parser)
    labelled_arguments(parser)
    parser.add_argument(
        "--lr",
        type=float,
        nargs="+",
        default=LEARNING_RATES,
        help="learning rates for batches of 256, e.g. 30 (0.01 to 100)",
    )
    parser.add_argument("--weight-decay", type=float, nargs="+", default=[0.0], help="(0)")
    parser.add_argument("--epochs", type=int, default=100, help="(%(default)s)")
    parser.add_argument(
        "--schedule",
        choices=["step", "cosine"],
        default="step",
        help="a tenth after 60 %% and 80 %% of the epochs, as for MoCo, or cosine, as for SimCLR",
    )
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.2,
        help="share of the training images to choose by (%(default)s)",
    )
    parser.add_argument(
        "--knn", type=int, metavar="K", help="also classify by K neighbours, on the same features"
    )
    parser.add_argument(
        "--each",
        action="store_true",
        help="also write into --json which test images are classified right, to compare runs by",
    )
    return parser.parse_args(words)


def describe(result: dict) -> str:
    """Trials in a line each, and the result in the last."""
    lines = [
        f"lr {trial['learning_rate']:g}, weight decay {trial['weight_decay']:g}: held-out top-1 "
        f"{trial['top1']:.1f} %"
        for trial in result["trials"]
    ]
    rates = sorted({trial["learning_rate"] for trial in result["trials"]})
    if len(rates) > 1 and result["learning_rate"] in (rates[0], rates[-1]):
        lines.append("the best learning rate is at the end of those tried: widen --lr")
    lines.append(
        f"linear top-1 {result['top1']:.1f} %, mean per class {result['mean_per_class']:.1f} % "
        f"(lr={result['learning_rate']:g}, weight decay={result['weight_decay']:g}, "
        f"{result['train_images']} train and {result['test_images']} test images, "
        f"{result['classes']} classes, {result['size']} px, {result['checkpoint']})"
    )
    if "knn" in result:
        knn = result["knn"]
        lines.append(
            f"kNN top-1 {knn['top1']:.1f} %, mean per class {knn['mean_per_class']:.1f} % "
            f"(k={knn['k']})"
        )
    return "\n".join(lines)


def main(words: list[str] | None = None) -> None:
    options = vars(parse_arguments(words))
    file = options.pop("json")
    with report_errors():
        result = linear(**options)
        print(describe(result))
        if file:
            write_result(file, result)
