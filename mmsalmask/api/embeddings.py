"""Features of images, and what they say about the images."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmsalmask.api.devices import choose_device
from mmsalmask.api.encoder import working
from mmsalmask.api.images import Data, image_paths
from mmsalmask.api.models import as_encoder
from mmsalmask.checks import check_integer, is_number
from mmsalmask.cli import with_progress
from mmsalmask.config.wording import ask, nearest
from mmsalmask.data import BrokenImage, read_image
from mmsalmask.engine.out_of_memory import sentences_for_memory
from mmsalmask.errors import InputError, some_names
from mmsalmask.evaluation.labelled import read_centre
from mmsalmask.evaluation.unlabelled import nearest_similarities
from mmsalmask.files import write_atomically
from mmsalmask.visualization.embedding import tsne


@dataclass(frozen=True)
class Embeddings:
    """Features of images.

    Attributes:
        features: (N, D), float32, as the encoder pooled them.
        paths: of the N images.
        skipped: of those that could not be read.
        model: the encoder's name.
    """

    features: np.ndarray
    paths: list[str]
    skipped: list[str] = field(default_factory=list)
    model: str = ""

    def __repr__(self) -> str:
        count, width = self.features.shape
        return f"Embeddings({count} images, {width} features, model={self.model!r})"

    def __len__(self) -> int:
        return len(self.paths)

    def save(self, path: str | os.PathLike) -> None:
        """Write all of it into one ``.npz`` file, whole or not at all.

        Raises:
            InputError: the name ends otherwise, or the file cannot be written.
        """
        path = Path(path)
        if path.suffix != ".npz":
            raise InputError(f"embeddings are written as .npz, name the file so, not {path.name}")
        content = BytesIO()
        np.savez(
            content,
            features=self.features,
            paths=np.array(self.paths, dtype=str),
            skipped=np.array(self.skipped, dtype=str),
            model=np.array(self.model),
        )
        try:
            write_atomically(path, content.getvalue())
        except OSError as error:
            raise InputError(f"could not write {path} ({error.strerror})") from error

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Embeddings":
        """Read what :meth:`save` wrote; no code of the file is run.

        Raises:
            InputError: there is no such file, or it holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(
                    file["features"],
                    file["paths"].tolist(),
                    file["skipped"].tolist(),
                    str(file["model"]),
                )
        except FileNotFoundError as error:
            raise InputError(f"there are no embeddings {path}") from error
        except (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError) as error:
            raise InputError(f"{path} holds no embeddings that mmsalmask wrote") from error

    def nearest(self, path: str | os.PathLike, k: int = 5) -> list[tuple[str, float]]:
        """The k most similar other images: path and cosine similarity, the most similar first.

        Raises:
            InputError: the image is none of :attr:`paths`, or there are not so many others.
        """
        check_integer("k", k)
        place = torch.tensor([self._place(path)])
        similarities, found = nearest_similarities(self._tensor, k, of=place)
        return self._named(found[0], similarities[0])

    def outliers(self, count: int = 10, k: int = 5) -> list[tuple[str, float]]:
        """The images that are least like their neighbours, the strangest first.

        Args:
            count: how many.
            k: neighbours, or all others if they are fewer.

        Returns:
            Path and 1 − mean cosine similarity to the k nearest.

        Raises:
            InputError: a number is less than one.
        """
        check_integer("count", count)
        check_integer("k", k)
        similarities, _ = nearest_similarities(self._tensor, min(k, len(self) - 1))
        strange = 1 - similarities.mean(1)
        order = strange.argsort(descending=True, stable=True)[:count]
        return self._named(order, strange[order])

    def duplicates(self, threshold: float = 0.98) -> list[tuple[str, str, float]]:
        """Pairs of images at least as similar as ``threshold`` (cosine), the most similar first.

        What counts as a copy depends on the encoder: an untrained one finds all images alike.

        Raises:
            InputError: the threshold is no cosine.
        """
        if not is_number(threshold, -1, 1):
            raise InputError(f"threshold must be a cosine in [-1, 1], got {threshold!r}")
        points = torch.nn.functional.normalize(self._tensor.double(), dim=1)
        pairs = []
        for start in range(0, len(points), 1024):
            similar = points[start : start + 1024] @ points.T
            rows, columns = (similar >= threshold).nonzero().T
            later = columns > rows + start
            for row, column in zip(rows[later].tolist(), columns[later].tolist(), strict=True):
                pair = self.paths[start + row], self.paths[column], similar[row, column].item()
                pairs.append(pair)
        return sorted(pairs, key=lambda pair: -pair[2])

    def map(self, thumbnails: int = 150, most: int = 5000, seed: int = 0) -> Figure:
        """The images in the plane by t-SNE, as points and, where there is room, as pictures.

        An image that is gone, or is no picture, is a point alone.

        Args:
            thumbnails: pictures at the most.
            most: images that are laid out; of more, a random part.
            seed: of the layout.

        Raises:
            InputError: there are fewer than five images.
        """
        if len(self) < 5:
            raise InputError(f"a map needs at least five images, there are {len(self)}")
        chosen = np.sort(np.random.RandomState(seed).permutation(len(self))[:most])
        points = tsne(self._tensor[torch.from_numpy(chosen)], seed)
        points = (points - points.min(0)) / np.ptp(points, axis=0).clip(1e-9)
        figure = Figure(figsize=(8, 8), layout="constrained", facecolor="white")
        axis = figure.subplots()
        axis.scatter(points[:, 0], points[:, 1], s=6, color="0.6", linewidths=0)
        side = max(2, int(thumbnails**0.5))
        grid = points * side * 0.999
        # Of the images of a cell the one nearest to its centre, so that few overlap.
        order = np.argsort(-np.abs(grid % 1 - 0.5).max(1), kind="stable").tolist()
        cells = {tuple(grid[i].astype(int)): i for i in order}
        for place in cells.values():
            picture = picture_of(self.paths[chosen[place]])
            if picture is None:
                continue
            picture.thumbnail((64, 64))
            shown = OffsetImage(np.asarray(picture), zoom=0.85 * 7.5 * 72 / side / 64)
            axis.add_artist(AnnotationBbox(shown, points[place], frameon=False, pad=0))
        axis.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
        axis.set_axis_off()
        return figure

    @property
    def _tensor(self) -> Tensor:
        return torch.from_numpy(self.features)

    def _place(self, path: str | os.PathLike) -> int:
        wanted = os.fspath(path)
        for place, known in enumerate(self.paths):
            if known == wanted or os.path.abspath(known) == os.path.abspath(wanted):
                return place
        near = nearest(wanted, {known: known for known in self.paths[:10_000]})
        raise InputError(f"{wanted} is none of the {len(self)} images{ask(near)}")

    def _named(self, places: Tensor, values: Tensor) -> list[tuple[str, float]]:
        pairs = zip(places.tolist(), values.tolist(), strict=True)
        return [(self.paths[place], value) for place, value in pairs]


def picture_of(path: str) -> Image.Image | None:
    """The image as a viewer shows it; ``None`` if it is gone, or no picture."""
    try:
        return Image.fromarray(read_image(path)[..., ::-1])
    except BrokenImage:
        return None


class _Crops(Dataset):
    """Centre crops (C, S, S) with their position; of a broken image the position alone."""

    def __init__(self, paths: Sequence[str], size: int, channels: int | None) -> None:
        self.paths, self.size, self.channels = paths, size, channels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, Tensor | None]:
        try:
            return index, read_centre(self.paths[index], self.size, self.channels)
        except BrokenImage:
            return index, None


def _collate(items: list[tuple[int, Tensor | None]]) -> tuple[list[int], Tensor | None]:
    whole = [(index, crop) for index, crop in items if crop is not None]
    if not whole:
        return [], None
    indices, crops = zip(*whole, strict=True)
    return list(indices), torch.stack(crops)


def embed(
    model: Any,
    data: Data,
    size: int | None = None,
    batch_size: int = 128,
    device: str | None = None,
    workers: int = 2,
) -> Embeddings:
    """Features of images.

    Args:
        model: a name, a checkpoint, a run, or an encoder of :func:`mmsalmask.get_model`.
        data: a folder, in which images are searched to any depth; an image; a text file with a
            path a line; or a list of any of these.
        size: of the centre crop in pixels; ``None`` for that of the encoder's views.
        batch_size: images at a time.
        device: ``None`` for the first GPU, where there is one, else the CPU.
        workers: processes that decode.

    Returns:
        Features in the order of the paths. Images that cannot be read are named in ``skipped``.

    Raises:
        InputError: the model, the data or the device is not there, or no image can be read.

    Example:
        >>> import mmsalmask as sm
        >>> model = sm.get_model("mocov2_resnet18-w16_1xb128-coslr-50e_imagenette-64px")
        >>> embeddings = sm.embed(model, photos)
        >>> embeddings.features.shape
        (6, 128)
        >>> path, similarity = embeddings.nearest(embeddings.paths[0], k=1)[0]
    """
    encoder, place = as_encoder(model), choose_device(device)
    paths = image_paths(data, encoder.extensions)
    crops = _Crops(paths, encoder.side(size), encoder.channels)
    loader = DataLoader(
        crops,
        check_integer("batch_size", batch_size),
        num_workers=check_integer("workers", workers, 0),
        collate_fn=_collate,
    )
    features, read = [], []
    memory = sentences_for_memory(f"batch_size={batch_size} at {crops.size} px")
    with memory, working(encoder, place):
        for indices, images in with_progress(loader, "embedding"):
            if images is not None:
                features.append(encoder(encoder.view(images.to(place))).float().cpu())
                read += indices
    if not features:
        raise InputError(f"none of the {len(paths)} images can be read ({some_names(paths, 2)})")
    known = set(read)
    return Embeddings(
        torch.cat(features).numpy(),
        [paths[index] for index in read],
        [path for index, path in enumerate(paths) if index not in known],
        encoder.name,
    )
