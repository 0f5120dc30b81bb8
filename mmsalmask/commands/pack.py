"""Pack images into tar shards: any folder, tar file or Hugging Face dataset.

    mmsalmask data pack data/imagenet/train data/imagenet-shards
    mmsalmask data pack ILSVRC2012_img_train.tar shards --shard-size 500

The files are copied as they are. Afterwards --cfg-options data_root=data/imagenet-shards trains on
the same images in the same order, with the same classes and the same saliency cache.
"""

import argparse
from pathlib import Path

from rich.progress import Progress

from mmsalmask.cli import Parser, report_errors
from mmsalmask.data import pack
from mmsalmask.data.packing import SHARD_BYTES
from mmsalmask.errors import some_names


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__, prog="mmsalmask data pack")
    parser.add_argument("source", help="a folder of images, a tar file, a Hugging Face dataset")
    parser.add_argument("out", type=Path, help="the folder of the shards, which is made")
    parser.add_argument(
        "--shard-size",
        type=int,
        default=SHARD_BYTES // 10**6,
        metavar="MB",
        help="megabytes after which a new shard begins (%(default)s)",
    )
    options = parser.parse_args(arguments)
    if options.shard_size < 1:
        parser.error("--shard-size must be at least 1")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    with report_errors(), Progress(transient=True) as bar:
        task = bar.add_task("packing")
        packed = pack(
            options.source,
            options.out,
            options.shard_size * 10**6,
            progress=lambda done, of: bar.update(task, completed=done, total=of),
        )
    print(
        f"{options.out}: {packed.images} images, {packed.bytes / 1e6:.1f} MB in "
        f"{packed.shards} shards"
    )
    if packed.left_out:
        print(
            f"{len(packed.left_out)} cannot be opened, or are no image, and were left out: ", end=""
        )
        print(some_names(packed.left_out))
    if packed.renamed:
        print(f"{packed.renamed} names had further dots, which are now underscores")
