"""Is my pretraining any good? Asked of the features alone, without labels."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mmsalmask.api.devices import choose_device
from mmsalmask.api.encoder import Encoder, working
from mmsalmask.api.images import Data, evenly, image_paths
from mmsalmask.api.models import as_encoder, untrained
from mmsalmask.augmentation import DeviceAugmentation, RandomView
from mmsalmask.checks import check_integer
from mmsalmask.cli import with_progress
from mmsalmask.data import BrokenImage, read_whole, read_whole_bands
from mmsalmask.engine.out_of_memory import sentences_for_memory
from mmsalmask.engine.summary import fold
from mmsalmask.errors import InputError
from mmsalmask.evaluation.unlabelled import (
    alignment,
    effective_rank,
    mean_distance,
    near_duplicates,
    rank_me,
    spread,
    uniformity,
)

# Below this share of an even spread the features of all images are nearly one.
_COLLAPSED = 0.1
# Fewer images say little of a rank.
_LEAST = 16


class Figure(NamedTuple):
    """A measure of the trained encoder, the same of an untrained one, and what it says."""

    value: float
    untrained: float
    sentence: str


@dataclass(frozen=True)
class Diagnosis:
    """What :func:`diagnose` found.

    Attributes:
        verdict: a sentence.
        good: whether the encoder tells images apart by what two views of an image share, better
            than an untrained one, without collapse.
        figures: by name.
        images: how many were looked at.
    """

    verdict: str
    good: bool
    figures: dict[str, Figure]
    images: int

    def __str__(self) -> str:
        lines = [self.verdict, ""]
        lines += [f"{'':<20}{'trained':>10}{'untrained':>11}"]
        for name, figure in self.figures.items():
            lines.append(f"{name:<20}{figure.value:>10.3g}{figure.untrained:>11.3g}")
            lines.append(f"    {figure.sentence}")
        return fold("\n".join(lines))

    __repr__ = __str__

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        figures = {name: figure._asdict() for name, figure in self.figures.items()}
        return {**vars(self), "figures": figures}


def diagnose(
    model_or_run: Any,
    data: Data,
    images: int = 2000,
    size: int | None = None,
    batch_size: int = 100,
    device: str | None = None,
    workers: int = 2,
    seed: int = 0,
) -> Diagnosis:
    """Judge an encoder by unlabelled images, beside an untrained one of the same architecture.

    Two random views of each image (MoCo v2's augmentation) are encoded by both. See
    :mod:`mmsalmask.evaluation.unlabelled` for the measures.

    Args:
        model_or_run: a run, a name, a checkpoint, or an encoder of :func:`mmsalmask.get_model`.
        data: images as for :func:`mmsalmask.embed`; best those that downstream tasks have.
        images: looked at, evenly spread over the data, at the most.
        size: of the views in pixels; ``None`` for that of the pretraining.
        batch_size: images at a time.
        device: ``None`` for the first GPU, where there is one, else the CPU.
        workers: processes that decode.
        seed: of the views and of the untrained encoder.

    Raises:
        InputError: fewer than 16 images can be read, or model, data or device are not there.

    Example:
        >>> import mmsalmask as sm
        >>> found = sm.diagnose(model, many_photos)
        >>> 0 <= found.figures["alignment"].value <= 4
        True
    """
    encoder, place = as_encoder(model_or_run), choose_device(device)
    size = encoder.side(size)
    loader = DataLoader(
        _Wholes(
            evenly(image_paths(data, encoder.extensions), images),
            round(size * 9 / 7),
            encoder.channels,
        ),
        check_integer("batch_size", batch_size),
        num_workers=check_integer("workers", workers, 0),
        collate_fn=_collate,
    )
    encoders = (encoder, untrained(encoder, seed))
    with sentences_for_memory(f"batch_size={batch_size} at {size} px"):
        views = _encode_views(encoders, loader, size, place, seed)
    if len(views[0][0]) < _LEAST:
        raise InputError(
            f"only {len(views[0][0])} images can be read, too few: give {_LEAST} or more"
        )
    return judge(views[0], views[1])


def judge(trained: tuple[Tensor, Tensor], fresh: tuple[Tensor, Tensor]) -> Diagnosis:
    """Figures and verdict of features (N, D) of two views each, of two encoders."""
    figures = {}
    for name, (measure, sentence) in _MEASURES.items():
        value, before = measure(*trained), measure(*fresh)
        figures[name] = Figure(value, before, sentence(value, before, trained[0]))
    collapsed = figures["spread"].value < _COLLAPSED
    closer, before, _ = figures["relative_alignment"]
    good = not collapsed and closer < before
    if collapsed:
        verdict = (
            "Collapsed: the features of all images are nearly the same. Look at the loss and the "
            "learning rate, and start again."
        )
    elif not good:
        verdict = (
            "Not learned: two views of an image are no closer to each other, among other images, "
            "than for an untrained net. Train longer, or look whether the loss falls."
        )
    else:
        verdict = (
            f"Learned: beside the distance between images, two views of an image lie "
            f"{before / max(closer, 1e-9):.1f} times as close as for an untrained net, "
            "and nothing has collapsed."
        )
    return Diagnosis(verdict, good, figures, len(trained[0]))


def relative_alignment(first: Tensor, second: Tensor) -> float:
    """:func:`alignment` over the mean squared distance of two images: 1 is no alignment at all."""
    distance = mean_distance(first)
    return alignment(first, second) / distance if distance > 1e-12 else 1.0


def _more_or_fewer(value: float, before: float) -> str:
    return "more than" if value > before else "no more than"


Measure = Callable[[Tensor, Tensor], float]
Sentence = Callable[[float, float, Tensor], str]
_MEASURES: dict[str, tuple[Measure, Sentence]] = {
    "rank_me": (
        lambda first, _: rank_me(first),
        lambda value, before, features: (
            f"The features use about {value:.0f} of {min(features.shape)} directions (RankMe), "
            f"{_more_or_fewer(value, before)} the {before:.0f} of an untrained net."
        ),
    ),
    "effective_rank": (
        lambda first, _: effective_rank(first),
        lambda value, before, _: (
            f"Images differ in about {value:.0f} directions, in an untrained net in {before:.0f}."
        ),
    ),
    "alignment": (
        alignment,
        lambda value, before, _: (
            f"Two views of an image lie {value:.2f} apart (squared distance on the sphere, 0 to 4)."
        ),
    ),
    "relative_alignment": (
        relative_alignment,
        lambda value, before, _: (
            f"That is {value:.0%} of the distance between two images, against {before:.0%}: "
            + ("views of an image find each other." if value < before else "nothing is learned.")
        ),
    ),
    "uniformity": (
        lambda first, _: uniformity(first),
        lambda value, before, _: (
            f"Images are {'more' if value < before else 'less'} evenly spread over the sphere than "
            "in an untrained net (the lower, the more evenly; 0 is collapse)."
        ),
    ),
    "spread": (
        lambda first, _: spread(first),
        lambda value, before, _: (
            "The features of all images are nearly one: collapse."
            if value < _COLLAPSED
            else f"No collapse: the spread is {value:.2f}, 0 being one point, 1 an even sphere."
        ),
    ),
    "near_duplicates": (
        lambda first, _: near_duplicates(first),
        lambda value, before, _: (
            f"{value:.0%} of the images have another of cosine similarity 0.98 or more: copies in "
            "the data, or images that the encoder cannot tell apart."
        ),
    ),
}


class _Wholes(torch.utils.data.Dataset):
    """Whole images squeezed to a square, RGB or bands, and their sizes; ``None`` for a broken."""

    def __init__(self, paths: list[str], side: int, channels: int | None) -> None:
        self.paths, self.side, self.channels = paths, side, channels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, tuple[int, int]] | None:
        try:
            if self.channels is None:
                image, size = read_whole(self.paths[index], self.side)
            else:
                image, size = read_whole_bands(self.paths[index], self.side, self.channels)
        except BrokenImage:
            return None
        return image.flip(0) if len(image) == 3 else image, size


def _collate(items: list) -> tuple[Tensor, Tensor] | None:
    whole = [item for item in items if item is not None]
    if not whole:
        return None
    images, sizes = zip(*whole, strict=True)
    return torch.stack(images), torch.tensor(sizes)


def _encode_views(
    encoders: tuple[Encoder, ...], loader: DataLoader, size: int, place: torch.device, seed: int
) -> list[tuple[Tensor, Tensor]]:
    """Features (N, D) of two views of all images, by each encoder."""
    augment = DeviceAugmentation(RandomView(size=size))
    generator = torch.Generator().manual_seed(seed)
    features: list[tuple[list, list]] = [([], []) for _ in encoders]
    with ExitStack() as stack:
        for encoder in encoders:
            stack.enter_context(working(encoder, place))
        for batch in with_progress(loader, "encoding"):
            if batch is None:
                continue
            images, sizes = batch
            index = torch.arange(len(images), device=place)
            views, _ = augment(images.to(place), index, sizes, generator)
            for encoder, lists in zip(encoders, features, strict=True):
                for view, rows in zip(views, lists, strict=True):
                    rows.append(encoder(encoder.view(view)).float().cpu())
    empty = torch.empty(0, 1)
    joined = [[torch.cat(rows) if rows else empty for rows in lists] for lists in features]
    return [(first, second) for first, second in joined]
