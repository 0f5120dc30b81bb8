"""Accuracies of a frozen encoder on labelled images."""

from typing import Any, NamedTuple

from mmengine.logging import MMLogger

from mmsalmask.api.devices import choose_device
from mmsalmask.api.encoder import working
from mmsalmask.api.models import as_encoder
from mmsalmask.checks import check_integer
from mmsalmask.engine.out_of_memory import sentences_for_memory
from mmsalmask.errors import InputError
from mmsalmask.evaluation.accuracy import accuracy
from mmsalmask.evaluation.features import extract_both
from mmsalmask.evaluation.knn import knn_classify
from mmsalmask.evaluation.labelled import count_classes, labelled_folders, warn_of_shared
from mmsalmask.evaluation.linear import evaluate_linear


class Evaluation(NamedTuple):
    """Accuracies on the test images, in percent, and the number of images.

    Attributes:
        knn, knn_mean_per_class: of the vote of the k nearest training images (Wu et al. 2018).
        linear, linear_mean_per_class: of a linear classifier on the features.
        learning_rate: of the linear classifier, chosen on a fifth of the training images.
        classes, train_images, test_images: how many.
    """

    knn: float
    knn_mean_per_class: float
    linear: float
    linear_mean_per_class: float
    learning_rate: float
    classes: int
    train_images: int
    test_images: int


def evaluate(
    model: Any,
    train: str,
    test: str | None = None,
    size: int | None = None,
    k: int = 20,
    batch_size: int = 100,
    device: str | None = None,
    workers: int = 2,
    seed: int = 0,
    train_per_class: int | None = None,
) -> Evaluation:
    """kNN and linear accuracy of a frozen encoder.

    The same as ``mmsalmask linear --knn`` with its defaults. Give a folder to classify, or split
    the one there is.

    Args:
        model: a name, a checkpoint, a run, or an encoder of :func:`mmsalmask.get_model`.
        train: folder ``<class>/<image>`` to learn from.
        test: one with the same classes to classify; ``None`` to split ``train``.
        size: of the centre crops in pixels; ``None`` for that of the encoder's views.
        k: neighbours that vote, at most as many as there are training images.
        batch_size: images at a time.
        device: ``None`` for the first GPU, where there is one, else the CPU.
        workers: processes that decode.
        seed: of the linear classifier, and of the split.
        train_per_class: if ``train`` is split, learn from so many images of each class and
            classify the others.

    Raises:
        InputError: a folder is missing, empty or without labels, the classes differ, a class is
            too small for the split, or model or device are not there.

    Example:
        >>> import mmsalmask as sm
        >>> result = sm.evaluate(model, labelled, held_out, k=3)
        >>> result.classes, result.train_images, result.test_images
        (2, 16, 8)
    """
    if (test is None) == (train_per_class is None):
        raise InputError(
            "give either test, a folder to classify, or train_per_class, how many images of each "
            "class of train to learn from"
        )
    encoder, place = as_encoder(model), choose_device(device)
    crop = encoder.side(size)
    test = None if test is None else str(test)
    sets = labelled_folders(str(train), test, train_per_class, seed, crop, encoder.channels)
    warn_of_shared(sets, MMLogger.get_instance("evaluation", log_level="WARNING"))
    classes = count_classes(*sets)
    memory = sentences_for_memory(f"batch_size={batch_size} at {crop} px")
    with memory, working(encoder, place):
        features = extract_both(encoder.backbone, encoder.view, sets, place, batch_size, workers)
    neighbours = knn_classify(
        features.train,
        features.train_labels,
        features.test,
        min(check_integer("k", k), len(features.train)),
        num_classes=classes,
    )
    linear = evaluate_linear(features, classes, seed=seed)
    return Evaluation(
        *accuracy(neighbours, features.test_labels),
        linear["top1"],
        linear["mean_per_class"],
        linear["learning_rate"],
        classes,
        len(sets[0]),
        len(sets[1]),
    )
