"""Mean and standard deviation of the channels of a set of images, for the data preprocessor.

    mmsalmask data stats data/images
    mmsalmask data stats data/satellite --channels 13 --workers 8

Without --channels images are read as 8-bit colours, and the figures are in the order R, G, B, for a
preprocessor with to_rgb=True. With it they are read as mmsalmask.LoadBands does.
"""

import argparse
import json
from pathlib import Path

from rich.progress import Progress

from mmsalmask.cli import LOADERS, Parser, report_errors
from mmsalmask.data import ImageFolder, channel_statistics
from mmsalmask.data.bands import BAND_EXTENSIONS
from mmsalmask.data.image_folder import check_folder
from mmsalmask.data.loading import EXTENSIONS
from mmsalmask.errors import some_names
from mmsalmask.provenance import provenance, write_result


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__, prog="mmsalmask data stats")
    parser.add_argument("source", help="what data_root names: a folder, tar shards, a dataset")
    parser.add_argument("--channels", type=int, help="that every image has")
    parser.add_argument("--workers", type=int, default=LOADERS, help="processes (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    options = parser.parse_args(arguments)
    if options.workers < 0 or (options.channels is not None and options.channels < 1):
        parser.error("--channels must be at least 1, --workers 0")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    extensions = EXTENSIONS if options.channels is None else BAND_EXTENSIONS
    with report_errors():
        check_folder(
            options.source, "name a folder of images, a tar file or a Hugging Face dataset"
        )
        images = ImageFolder(options.source, extensions=extensions)
        with Progress(transient=True) as bar:
            task = bar.add_task("reading")
            found = channel_statistics(
                images,
                options.channels,
                options.workers,
                progress=lambda done, of: bar.update(task, completed=done, total=of),
            )
        told = f"; {len(found.broken)} cannot be read: {some_names(found.broken)}"
        print(f"# of {found.images} images" + told * bool(found.broken))
        for name in ("mean", "std"):
            print(f"{name}={json.dumps([float(f'{value:.5g}') for value in getattr(found, name)])}")
        if options.json:
            write_result(options.json, {**provenance(), **found._asdict()})
