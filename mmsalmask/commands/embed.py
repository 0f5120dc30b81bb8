"""Features of images by a pretrained encoder, in one file.

    mmsalmask embed work_dirs/mine/epoch_200.pth photos -o photos.npz --map photos.png

The file is read by mmsalmask.Embeddings.load, which also finds neighbours, outliers and copies.
"""

import argparse
from pathlib import Path

from matplotlib.backend_bases import FigureCanvasBase

import mmsalmask as sm
from mmsalmask.cli import Parser, report_errors
from mmsalmask.errors import InputError, some_names
from mmsalmask.visualization.saving import save_figure


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    model_arguments(parser)
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("embeddings.npz"), help="(%(default)s)"
    )
    parser.add_argument("--map", type=Path, metavar="PNG", help="also draw the images in the plane")
    parser.add_argument(
        "--duplicates",
        type=float,
        nargs="?",
        const=0.98,
        metavar="COSINE",
        help="also print pairs at least as similar (0.98)",
    )
    parser.add_argument(
        "--outliers", type=int, nargs="?", const=10, metavar="N", help="also print the strangest N"
    )
    return parser.parse_args(arguments)


def model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what an encoder and unlabelled images are given by."""
    parser.add_argument("model", help="a checkpoint, or a name of `mmsalmask models`")
    parser.add_argument("images", nargs="+", help="folders, images, or text files of paths")
    parser.add_argument("--size", type=int, help="pixels of the crop (as in pretraining)")
    compute_arguments(parser)


def compute_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how, and where, an encoder looks at images."""
    parser.add_argument("--batch-size", type=int, default=100, help="images (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="that decode (%(default)s)")
    parser.add_argument("--device", help="e.g. cpu or cuda:1 (the first GPU, else the CPU)")


def check_picture(file: Path) -> None:
    """Refuse a picture that could not be written, and make its folder.

    Raises:
        InputError: its name has no ending that matplotlib knows, or its folder cannot be made.
    """
    kinds = FigureCanvasBase.get_supported_filetypes()
    if file.suffix[1:].lower() not in kinds:
        raise InputError(f"--map {file}: name the picture .png, or {', '.join(sorted(kinds))}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--map {file}: its folder cannot be made ({error.strerror}), choose another"
        ) from error


@report_errors()
def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    if options.out.suffix != ".npz":
        raise InputError(f"--out {options.out}: embeddings are written as .npz, name the file so")
    if options.map:
        check_picture(options.map)
    found = sm.embed(
        options.model,
        options.images,
        options.size,
        options.batch_size,
        options.device,
        options.workers,
    )
    found.save(options.out)
    if found.skipped:
        print(f"{len(found.skipped)} images cannot be read: {some_names(found.skipped)}")
    if options.map:
        figure = found.map()
        figure.set_dpi(140)
        save_figure(figure, options.map)
        print(options.map)
    if options.duplicates is not None:
        print(f"copies (pairs of a cosine similarity of {options.duplicates:g} or more):")
        for first, second, similarity in found.duplicates(options.duplicates):
            print(f"{similarity:.4f}  {first}  {second}")
    if options.outliers is not None:
        print("outliers (1 - mean cosine similarity to the nearest images):")
        for path, strangeness in found.outliers(options.outliers):
            print(f"{strangeness:.4f}  {path}")
    print(f"{options.out}: {len(found)} images, {found.features.shape[1]} features each")
