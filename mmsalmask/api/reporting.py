"""A pretraining on one page: what was trained, curves, masks, and whether it is any good."""

import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import ImageOps

from mmsalmask.api.diagnosis import Diagnosis, diagnose
from mmsalmask.api.embeddings import Embeddings, embed, picture_of
from mmsalmask.api.images import Data, evenly, image_paths
from mmsalmask.api.models import get_model
from mmsalmask.api.run import Run
from mmsalmask.checkpoint import load_checkpoint
from mmsalmask.checkpoint.loading import meta_of
from mmsalmask.checkpoint.origin import config_of, describe
from mmsalmask.downstream.tables import markdown_table
from mmsalmask.visualization.page import plain, write_page
from mmsalmask.visualization.saving import save_figure

QUERIES, NEIGHBOURS = 6, 6  # pictures of the neighbours
_WARNING = re.compile(r" - WARNING - (.*)")


def report(
    run: Run | str | os.PathLike,
    data: Data | None = None,
    file: str | os.PathLike | None = None,
    images: int = 2000,
    batch_size: int = 100,
    device: str | None = None,
    workers: int = 2,
) -> Path:
    """Write one HTML file that tells of a pretraining, whole without any other file.

    Curves, masks from the first to the newest, what the guards warned of, and the recipe; with
    ``data`` also the diagnosis of :func:`mmsalmask.diagnose` and nearest neighbours.

    Args:
        run: a run, or its folder; it may still be training.
        data: images as for :func:`mmsalmask.embed`; best those that downstream tasks have.
        file: to write; ``None`` for ``report.html`` in the folder of the run.
        images: looked at, evenly spread over the data, at the most.
        batch_size: images at a time.
        device: ``None`` for the first GPU, where there is one, else the CPU.
        workers: processes that decode.

    Returns:
        The file.

    Raises:
        InputError: there is no such run, or it has no checkpoint or no curve yet; data or device
            are not there.

    Example:
        >>> import mmsalmask as sm
        >>> sm.report(run, many_photos).name
        'report.html'
    """
    run = run if isinstance(run, Run) else Run(run)
    folder = run.folder / "report"
    newest, curves = run.checkpoint, run.plot()
    checkpoint = load_checkpoint(newest, lazy=True)
    parts = [f"# Pretraining {plain(run.folder.resolve().name)}\n", _facts(run, checkpoint, newest)]
    parts += ["## Curves\n", _picture(curves, folder, "curves"), _masks(run)]
    if data is not None:
        encoder = get_model(newest)
        paths = evenly(image_paths(data, encoder.extensions), images)
        found = diagnose(encoder, paths, images, None, batch_size, device, workers)
        embeddings = embed(encoder, paths, None, batch_size, device, workers)
        parts += [_diagnosis(found), _neighbours(embeddings, folder)]
    parts += [_warnings(run), "## The whole config\n", _config(checkpoint)]
    file = run.folder / "report.html" if file is None else Path(file)
    write_page("\n".join(parts), folder, file)
    return file


def _facts(run: Run, checkpoint: Mapping[str, Any], source: Path) -> str:
    """What was trained, how long, and by what."""
    told, config, history = describe(checkpoint, source), config_of(checkpoint), run.history
    loader = config.get("train_dataloader", {})
    loss = [value for value in history.get("loss", []) if np.isfinite(value)] or [np.nan]
    facts = {
        "algorithm": told["model"],
        "backbone": " ".join(x for x in (told["backbone"], told["depth"]) if x != "unknown"),
        "high-pass filtered images": told["high_pass"],
        "epochs": f"{told['epoch']} of {config.get('train_cfg', {}).get('max_epochs', 'unknown')}",
        "optimizer steps": told["iter"],
        "images of a step, per process": loader.get("batch_size", "unknown"),
        "loss, first and last": f"{loss[0]:.3f}, {loss[-1]:.3f}",
        "seed": config.get("randomness", {}).get("seed", "unknown"),
        "checkpoint": f"{told['source']}, sha256 {told['source_sha256'][:16]}…",
        "mmsalmask": told["mmsalmask_version"],
    }
    if "images_per_second" in history:
        facts["images per second, median"] = f"{np.nanmedian(history['images_per_second']):,.0f}"
    return markdown_table(
        ["", ""], [[key, plain(str(value))] for key, value in facts.items()], left=2
    )


def _picture(figure: Figure, folder: Path, name: str) -> str:
    folder.mkdir(exist_ok=True)
    save_figure(figure, folder / f"{name}.png")
    return f"![{name}]({name}.png)\n"


def _masks(run: Run) -> str:
    """The first picture of masks, one from the middle, the newest."""
    drawn = run.mask_pictures
    if not drawn:
        return ""
    chosen = dict.fromkeys(drawn[place] for place in (0, len(drawn) // 2, -1))
    shown = [f"{file.stem}:\n\n![{file.stem}](../masks/{file.name})\n" for file in chosen]
    return "\n".join(["## Masks\n", *shown])


def _diagnosis(found: Diagnosis) -> str:
    rows = [
        [name, figure.sentence, f"{figure.value:.3g}", f"{figure.untrained:.3g}"]
        for name, figure in found.figures.items()
    ]
    table = markdown_table(["measure", "what it says", "trained", "untrained"], rows, left=2)
    return f"## Is it any good?\n\n{found.verdict} ({found.images:,} images, no labels)\n\n{table}"


def _neighbours(embeddings: Embeddings, folder: Path) -> str:
    """Images, a row each, and those that the encoder finds most like them."""
    count = min(NEIGHBOURS, len(embeddings) - 1)
    queries = evenly(embeddings.paths, QUERIES)
    figure = Figure(figsize=(1.3 * (count + 1), 1.45 * len(queries)), dpi=110, layout="constrained")
    axes = figure.subplots(len(queries), count + 1, squeeze=False)
    for row, query in zip(axes, queries, strict=True):
        shown = [(query, None), *embeddings.nearest(query, count)]
        for axis, (path, similarity) in zip(row, shown, strict=True):
            if (photo := picture_of(path)) is not None:
                axis.imshow(ImageOps.fit(photo, (128, 128)))
            axis.set_title("image" if similarity is None else f"{similarity:.2f}", fontsize=8)
            axis.set_axis_off()
    drawn = _picture(figure, folder, "neighbours")
    return f"## Nearest neighbours\n\nCosine similarity of the features.\n\n{drawn}"


def _warnings(run: Run) -> str:
    """What the logs warn of, each sentence once, and how often."""
    logs = [file.read_text(errors="replace") for file in sorted(run.folder.glob("*/*.log"))]
    told = Counter(found for log in logs for found in _WARNING.findall(log))
    if not told:
        return "## Warnings\n\nNone.\n"
    rows = [[plain(sentence), str(times)] for sentence, times in told.most_common(30)]
    return "## Warnings\n\n" + markdown_table(["warning", "times"], rows)


def _config(checkpoint: Mapping[str, Any]) -> str:
    text = meta_of(checkpoint).get("cfg", "")
    return "".join(f"    {line}\n" for line in str(text).splitlines())
