"""A pretraining on one page: curves, masks, warnings, and whether it is any good.

    mmsalmask report work_dirs/mine --data photos

The page is work_dirs/mine/report.html, one file that needs no other.
"""

import argparse
from pathlib import Path

import mmsalmask as sm
from mmsalmask.cli import Parser, report_errors
from mmsalmask.commands.embed import compute_arguments


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("run", help="the work directory of a pretraining")
    parser.add_argument(
        "--data", nargs="+", help="images to judge the encoder by and to show neighbours of"
    )
    parser.add_argument("-o", "--out", type=Path, help="(report.html in the work directory)")
    parser.add_argument("--number", type=int, default=2000, help="of images (%(default)s)")
    compute_arguments(parser)
    return parser.parse_args(arguments)


@report_errors()
def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    page = sm.report(
        options.run,
        options.data,
        options.out,
        options.number,
        options.batch_size,
        options.device,
        options.workers,
    )
    print(f"report: {page}")
