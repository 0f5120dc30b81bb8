"""Pictures of what a downstream model found, next to the truth."""

import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from PIL import Image
from pycocotools.cocoeval import COCOeval

from mmsalmask.engine.safe_checkpoint import write_atomically

_ROW, _DPI = 2.2, 120  # inches of a row of photos
_MOST_OBJECTS = 8  # of which boxes and names can be told apart
_OPAQUE = 0.75  # colours of classes, laid over the photo
_LINES = {0.5: "IoU 0.50", 0.75: "IoU 0.75"}


def draw_precision_recall(evaluations: dict[str, COCOeval], picture: Path) -> None:
    """Precision over recall, the mean of all classes that have objects, an axis per evaluation.

    Args:
        evaluations: titles and accumulated evaluations.
        picture: the PNG to write.
    """
    size = (3.4 * len(evaluations), 3.2)
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained", facecolor="white")
    axes = figure.subplots(1, len(evaluations), squeeze=False, sharey=True)[0]
    for axis, (title, evaluation) in zip(axes, evaluations.items(), strict=True):
        recall = evaluation.params.recThrs
        for name, precision in precision_recall(evaluation).items():
            area = f"{100 * precision.mean():.1f}" if len(precision) else "no objects"
            axis.plot(recall[: len(precision)], precision, label=f"{name}: {area}", lw=1.8)
        axis.set(title=title, xlabel="recall", xlim=(0, 1), ylim=(0, 1.02))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="upper right", title="AP, %", title_fontsize=8)
    axes[0].set_ylabel("precision")
    _save(figure, picture)


def precision_recall(evaluation: COCOeval) -> dict[str, np.ndarray]:
    """Precision at the evaluation's levels of recall, by the name of the overlap asked for.

    The mean over the classes that have objects; all sizes, 100 detections of an image. Empty where
    no class has objects. The mean of a curve is the average precision.
    """
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # overlaps, recalls, classes
    precision = precision[:, :, (precision > -1).any((0, 1))]
    curves = precision.mean(2) if precision.shape[2] else precision[:, :0].sum(2)
    overlaps = np.round(evaluation.params.iouThrs, 2).tolist()
    lines = {name: curves[overlaps.index(overlap)] for overlap, name in _LINES.items()}
    return {"IoU 0.50:0.95": curves.mean(0), **lines}


def draw_detections(
    evaluation: COCOeval, images: Path, picture: Path, kind: str = "bbox", count: int = 4
) -> None:
    """True objects of some images above as many of the detections, those with the best scores.

    Args:
        evaluation: holds truth and detections, with masks if ``kind`` is ``"segm"``.
        images: the folder that the truth's file names are relative to.
        picture: the PNG to write.
        kind: draw ``"bbox"`` alone, or masks of ``"segm"``, too.
        count: images, the first that have one to eight objects.
    """
    truth, found = evaluation.cocoGt, evaluation.cocoDt
    names = {each["id"]: each["name"] for each in truth.dataset["categories"]}
    objects = defaultdict(list)
    for each in truth.dataset["annotations"]:
        if not each.get("iscrowd"):
            objects[each["image_id"]].append(each)
    few = range(1, _MOST_OBJECTS + 1)
    chosen = [image for image in truth.dataset["images"] if len(objects[image["id"]]) in few][
        :count
    ]
    figure, rows = _grid(["truth", "found"], [images / each["file_name"] for each in chosen])
    for column, image in enumerate(chosen):
        true = objects[image["id"]]
        best = sorted(found.imgToAnns[image["id"]], key=lambda each: -each["score"])[: len(true)]
        for axis, (owner, instances) in zip(
            rows[:, column], ((truth, true), (found, best)), strict=True
        ):
            for each in instances:
                mask = owner.annToMask(each) if kind == "segm" else None
                _draw_object(axis, each, names[each["category_id"]], mask)
    _save(figure, picture)


def _draw_object(axis: Axes, instance: dict, name: str, mask: np.ndarray | None) -> None:
    color = matplotlib.colormaps["tab10"](instance["category_id"] % 10)
    x, y, width, height = instance["bbox"]
    axis.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=color, lw=1.4))
    if mask is not None:
        axis.imshow(np.array(color) * np.stack([mask] * 3 + [0.55 * mask], axis=2))
    label = f"{name} {instance['score']:.2f}" if "score" in instance else name
    box = dict(facecolor=color, edgecolor="none", pad=0.8, alpha=0.8)
    axis.text(max(x, 0), max(y, 0), label, fontsize=6, color="white", va="top", bbox=box)


def draw_segmentations(
    photos: Sequence[Path],
    truth: Sequence[Path],
    found: Sequence[Path],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    picture: Path,
) -> None:
    """Photos, true classes and found classes of pixels, below each other.

    Args:
        photos: of images.
        truth, found: of as many PNGs of classes, of the photos' size; 255 counts as nothing.
        classes, palette: names and colours (0 to 255) of the classes.
        picture: the PNG to write.
    """
    figure, rows = _grid(["photo", "truth", "found"], photos)
    colors, seen = np.array(palette, np.uint8), set()
    for axes, maps in zip(rows[1:], (truth, found), strict=True):
        for axis, path in zip(axes, maps, strict=True):
            labels = np.array(Image.open(path))
            known = labels < len(classes)
            seen |= set(np.unique(labels[known]).tolist())
            shown = np.where(known[..., None], colors[np.where(known, labels, 0)], 255)
            axis.imshow(shown, interpolation="nearest", alpha=_OPAQUE)
    handles = [
        Patch(facecolor=colors[i] / 255, edgecolor="0.6", label=classes[i]) for i in sorted(seen)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=7, fontsize=7, frameon=False)
    _save(figure, picture)


def draw_embedding(embedding: dict, picture: Path) -> None:
    """Points in the plane, coloured by class.

    Args:
        embedding: as :func:`mmsalmask.evaluation.embedding.embed` returns it.
        picture: the PNG to write.
    """
    points, labels = np.array(embedding["points"]), np.array(embedding["labels"])
    figure = Figure(figsize=(6.4, 4.4), dpi=_DPI, layout="constrained", facecolor="white")
    axis = figure.subplots()
    for number, label in enumerate(dict.fromkeys(labels.tolist())):
        color = matplotlib.colormaps["tab10"](number % 10)
        of_class = points[labels == label]
        name = embedding["classes"][label]
        axis.scatter(*of_class.T, s=14, color=color, label=name, alpha=0.8, linewidths=0)
    axis.set(xticks=[], yticks=[])
    axis.set_aspect("equal", adjustable="datalim")
    figure.legend(loc="outside right center", fontsize=8, frameon=False, markerscale=1.6)
    _save(figure, picture)


def _grid(titles: Sequence[str], photos: Sequence[Path]) -> tuple[Figure, np.ndarray]:
    """A row of axes per title, each with all the photos in it, of one height."""
    pictures = [Image.open(path).convert("RGB") for path in photos]
    shapes = [picture.width / picture.height for picture in pictures]
    size = (_ROW * sum(shapes) + 0.3, _ROW * len(titles) + 0.3)
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    rows = figure.subplots(len(titles), len(photos), squeeze=False, width_ratios=shapes)
    for title, axes in zip(titles, rows, strict=True):
        axes[0].set_ylabel(title, fontsize=9)
        for axis, picture in zip(axes, pictures, strict=True):
            axis.imshow(picture)
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set_visible(False)
    return figure, rows


def _save(figure: Figure, picture: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomically(picture, content.getvalue())
