"""Pictures of what a downstream model found, next to the truth."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.transforms import Bbox
from PIL import Image
from pycocotools.cocoeval import COCOeval

from mmsalmask.visualization.saving import save_figure

_ROW, _DPI = 2.4, 120  # inches of a row of photos
_MOST_OBJECTS = 6  # of which boxes and names can be told apart
_SMALLEST = 0.01  # share of the photo, of objects that can be seen
_LOOKED_AT = 100  # photos, of which a few are drawn
_OPAQUE = 0.65  # colours of classes, laid over the photo in grey
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
        lines = zip(("-", "--", ":"), precision_recall(evaluation).items(), strict=True)
        for style, (name, precision) in lines:  # the dashes let a line below be seen
            area = f"{100 * precision.mean():.2f}" if len(precision) else "no objects"
            shown = dict(label=f"{name}: {area}", ls=style, lw=1.8)
            axis.plot(recall[: len(precision)], precision, **shown)
        axis.set(
            title=title, xlabel="recall", xlim=(0, 1), ylim=(-0.03, 1.03)
        )  # a curve at 0 stays visible
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="upper right", title="AP, %", title_fontsize=8)
    axes[0].set_ylabel("precision")
    save_figure(figure, picture)


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
    """True objects of some images, above as many detections with the best scores.

    Args:
        evaluation: holds truth and detections, with masks if ``kind`` is ``"segm"``.
        images: folder of the images, to which the file names of the truth are relative.
        picture: the PNG to write.
        kind: ``"bbox"`` draws boxes, ``"segm"`` also masks.
        count: images, the first that have one to six objects, or more where none has so few;
            those with tiny ones come last.
    """
    truth, found = evaluation.cocoGt, evaluation.cocoDt
    names = {each["id"]: each["name"] for each in truth.dataset["categories"]}
    objects = defaultdict(list)
    for each in truth.dataset["annotations"]:
        if not each.get("iscrowd"):
            objects[each["image_id"]].append(each)
    seen = [image for image in truth.dataset["images"] if objects[image["id"]]]
    few = [image for image in seen if len(objects[image["id"]]) <= _MOST_OBJECTS] or seen

    def has_tiny(image: dict) -> bool:
        with Image.open(images / image["file_name"]) as photo:
            pixels = photo.width * photo.height
        return min(np.prod(each["bbox"][2:]) for each in objects[image["id"]]) < _SMALLEST * pixels

    chosen = sorted(few[:_LOOKED_AT], key=has_tiny)[:count]
    photos = [Image.open(images / image["file_name"]) for image in chosen]
    figure, rows = _grid(["truth", "found"], photos)
    for column, image in enumerate(chosen):
        true = objects[image["id"]]
        best = sorted(found.imgToAnns[image["id"]], key=lambda each: -each["score"])[: len(true)]
        kinds = list(dict.fromkeys(each["category_id"] for each in (*true, *best)))
        for axis, (owner, instances) in zip(
            rows[:, column], ((truth, true), (found, best)), strict=True
        ):
            for each in instances:
                mask = owner.annToMask(each) if kind == "segm" else None
                color = matplotlib.colormaps["tab10"](kinds.index(each["category_id"]) % 10)
                _draw_object(axis, each, names[each["category_id"]], color, mask)
    _part_labels(figure)
    save_figure(figure, picture)


def _draw_object(
    axis: Axes, instance: dict, name: str, color: tuple[float, ...], mask: np.ndarray | None
) -> None:
    x, y, width, height = instance["bbox"]
    axis.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=color, lw=1.4))
    if mask is not None:
        axis.imshow(np.array(color) * np.stack([mask] * 3 + [0.45 * mask], axis=2))
    label = f"{name} {instance['score']:.2f}" if "score" in instance else name
    box = dict(facecolor=color, edgecolor="none", pad=0.8, alpha=0.8)
    axis.text(max(x, 0), max(y, 0), label, fontsize=6.5, color="white", va="top", bbox=box)


def _part_labels(figure: Figure) -> None:
    """Move labels into their photo and, where they lie on each other, apart."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # settles the layout, which says where labels are
    figure.set_layout_engine("none")
    for axis in figure.axes:
        photo, taken = axis.get_window_extent(), []
        for text in axis.texts:
            box = text.get_window_extent()
            left = min(box.x0, photo.x1 - box.width - 2)
            tops = [
                box.y1,
                *(other.y0 - 2 for other in taken),
                *(o.y1 + box.height + 2 for o in taken),
            ]
            places = [
                Bbox.from_bounds(
                    left,
                    min(max(top - box.height, photo.y0), photo.y1 - box.height),
                    box.width,
                    box.height,
                )
                for top in sorted(tops, key=lambda top: abs(top - box.y1))
            ]
            free = (place for place in places if not any(place.overlaps(other) for other in taken))
            place = next(free, places[0])
            taken.append(place)
            text.set_position(axis.transData.inverted().transform((place.x0, place.y1)))


def draw_segmentations(
    photos: Sequence[Path],
    truth: Sequence[Path],
    found: Sequence[Path],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    picture: Path,
) -> None:
    """Photos, true classes and found classes of pixels, below each other.

    A class whose colour is black, which is the background, shows the photo in grey.

    Args:
        photos: of images.
        truth, found: of as many PNGs of classes, of the photos' size; 255 counts as nothing.
        classes, palette: names and colours (0 to 255) of the classes.
        picture: the PNG to write.
    """
    pictures = [Image.open(path) for path in photos]
    figure, rows = _grid(["photo", "truth", "found"], pictures)
    colors, seen = np.array(palette, np.uint8), set()
    for axes, maps in zip(rows[1:], (truth, found), strict=True):
        for axis, photo, path in zip(axes, pictures, maps, strict=True):
            labels = np.array(Image.open(path))
            known = labels < len(classes)
            seen |= set(np.unique(labels[known]).tolist())
            shown = np.where(known[..., None], colors[np.where(known, labels, 0)], 255)
            opaque = np.uint8(255 * _OPAQUE) * shown.any(-1, keepdims=True)
            axis.imshow(photo.convert("L").convert("RGB"))
            axis.imshow(
                np.concatenate((shown, opaque), -1).astype(np.uint8), interpolation="nearest"
            )
    handles = [
        Patch(facecolor=colors[i] / 255, edgecolor="0.6", label=classes[i])
        for i in sorted(seen)
        if colors[i].any()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=7, fontsize=7, frameon=False)
    save_figure(figure, picture)


def draw_embedding(embedding: dict, picture: Path) -> None:
    """Points in the plane, coloured by class.

    Args:
        embedding: as :func:`mmsalmask.visualization.embedding.embed` returns it.
        picture: the PNG to write.
    """
    points, labels = np.array(embedding["points"]), np.array(embedding["labels"])
    points = points[:, np.argsort(-np.ptp(points, axis=0), kind="stable")]  # the longer side lies
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
    save_figure(figure, picture)


def _grid(titles: Sequence[str], photos: Sequence[Image.Image]) -> tuple[Figure, np.ndarray]:
    """A row of axes per title, each with all the photos in it, of one height."""
    shapes = [photo.width / photo.height for photo in photos]
    size = (_ROW * sum(shapes) + 0.3, _ROW * len(titles) + 0.3)
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    rows = figure.subplots(len(titles), len(photos), squeeze=False, width_ratios=shapes)
    for title, axes in zip(titles, rows, strict=True):
        axes[0].set_ylabel(title, fontsize=9)
        for axis, photo in zip(axes, photos, strict=True):
            axis.imshow(photo.convert("RGB"))
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set_visible(False)
    return figure, rows
