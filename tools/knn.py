"""kNN accuracy of a backbone, pretrained or untrained, on labelled image folders.

Give a folder of training and one of test images (--train, --test), each with a subfolder per class;
or one folder (--train) of which --train-per-class images of every class, drawn by --seed, are the
neighbours and the others are classified.
"""

import argparse

from mmsalmask.cli import config_arguments, labelled_arguments, report_errors
from mmsalmask.evaluation.accuracy import accuracy
from mmsalmask.evaluation.features import features_for
from mmsalmask.evaluation.knn import knn_classify_each
from mmsalmask.provenance import write_result


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    config_arguments(parser)
    labelled_arguments(parser)
    parser.add_argument(
        "-k", type=int, nargs="+", default=[20], help="neighbours that vote, e.g. 20 200 (20)"
    )
    parser.add_argument(
        "--temperature", type=float, default=0.07, help="of their votes (%(default)s)"
    )
    return parser.parse_args(arguments)


def evaluate(options: argparse.Namespace) -> dict:
    """The accuracy for each k, with all that it depends on; that of the first k by itself, too."""
    features, facts = features_for(options)
    predicted = knn_classify_each(
        features.train,
        features.train_labels,
        features.test,
        options.k,
        options.temperature,
        facts["classes"],
    )
    by_k = {
        k: dict(zip(("top1", "mean_per_class"), accuracy(each, features.test_labels), strict=True))
        for k, each in zip(options.k, predicted, strict=True)
    }
    return {
        **by_k[options.k[0]],
        **facts,
        "k": options.k[0],
        "temperature": options.temperature,
        "by_k": by_k,
    }


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    with report_errors():
        result = evaluate(options)
        for k, figures in result["by_k"].items():
            print(
                f"kNN top-1 {figures['top1']:.1f} %, mean per class "
                f"{figures['mean_per_class']:.1f} % (k={k}, {result['train_images']} train and "
                f"{result['test_images']} test images, {result['classes']} classes, "
                f"{options.checkpoint})"
            )
        if options.json:
            write_result(options.json, result)


if __name__ == "__main__":
    main()
