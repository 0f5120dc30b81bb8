"""kNN accuracy of a backbone, pretrained or untrained, on labelled image folders.

Give a folder of training and one of test images (--train, --test), each with a subfolder per class;
or one folder (--train) of which --train-per-class images of every class, drawn by --seed, are the
neighbours and the others are classified.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from mmsalmask.cli import Parser, config_arguments, labelled_arguments, report_errors
from mmsalmask.evaluation.accuracy import accuracy
from mmsalmask.evaluation.features import features_for
from mmsalmask.evaluation.knn import check_scale, knn_classify_each
from mmsalmask.provenance import provenance, write_result


def knn(
    config: str,
    checkpoint: str,
    train: str,
    test: str | None = None,
    train_per_class: int | None = None,
    k: int | Sequence[int] = 20,
    temperature: float = 0.07,
    size: int | None = None,
    seed: int = 0,
    batch_size: int = 100,
    workers: int = 2,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> dict:
    """Accuracy of kNN on the features of a backbone.

    Args:
        k: numbers of neighbours that vote, e.g. ``(20, 200)``.
        temperature: of their votes.

    The other arguments are those of :func:`mmsalmask.evaluation.features.features_for`.

    Returns:
        ``top1`` and ``mean_per_class`` in percent for the first k, ``by_k`` the same for each, and
        all that they depend on.

    Raises:
        InputError: for a config, checkpoint, folder or number that will not do.

    Example::

        config = "mmsalmask::demo/mocov2_resnet18_demo.py"
        print(knn(config, "epoch_9.pth", "photos/train", "photos/test", k=(20, 200))["by_k"])
    """
    origin = provenance(seed)
    ks = [k] if isinstance(k, int) else list(k)
    check_scale(temperature)
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
        ks,
    )
    predicted = knn_classify_each(
        features.train,
        features.train_labels,
        features.test,
        ks,
        temperature,
        facts["classes"],
    )
    by_k = {
        each: dict(
            zip(("top1", "mean_per_class"), accuracy(found, features.test_labels), strict=True)
        )
        for each, found in zip(ks, predicted, strict=True)
    }
    return {**by_k[ks[0]], **facts, "k": ks[0], "temperature": temperature, "by_k": by_k, **origin}


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    config_arguments(parser)
    labelled_arguments(parser)
    parser.add_argument(
        "-k", type=int, nargs="+", default=[20], help="neighbours that vote, e.g. 20 200 (20)"
    )
    parser.add_argument(
        "--temperature", type=float, default=0.07, help="of their votes (%(default)s)"
    )
    return parser.parse_args(words)


def describe(result: dict) -> str:
    """The result for each k, a line each."""
    return "\n".join(
        f"kNN top-1 {figures['top1']:.1f} %, mean per class {figures['mean_per_class']:.1f} % "
        f"(k={k}, {result['train_images']} train and {result['test_images']} test images, "
        f"{result['classes']} classes, {result['size']} px, {result['checkpoint']})"
        for k, figures in result["by_k"].items()
    )


def main(words: list[str] | None = None) -> None:
    options = vars(parse_arguments(words))
    file = options.pop("json")
    with report_errors():
        result = knn(**options)
        print(describe(result))
        if file:
            write_result(file, result)
