"""Test a depth checkpoint, draw disparity maps beside images, and put its row into Table 3.

Written to --work-dir: disparities.png, table3.md (the paper's Table 3 with this run's row below)
and metrics.json. The row is comparable with the others only for KITTI's 697 Eigen test images and
an encoder that was frozen; the file says what was tested.
"""

import argparse
from pathlib import Path

from mmsalmask.cli import Parser, config_arguments, report_errors, work_dir_argument
from mmsalmask.depth.report import TABLE, depth_report


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    config_arguments(parser)
    parser.add_argument("checkpoint", help="a checkpoint of the config's model")
    work_dir_argument(parser, "work_dirs/<config>/depth_report")
    parser.add_argument("--images", type=int, default=6, help="to draw (%(default)s)")
    parser.add_argument("--name", default="this run", help="of the row (%(default)s)")
    parser.add_argument(
        "--published", type=Path, default=TABLE, help="the other rows, as CSV (%(default)s)"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    with report_errors():
        table, out = depth_report(
            options.config,
            options.checkpoint,
            options.work_dir,
            options.images,
            options.name,
            options.published,
            options.cfg_options,
        )
        print(f"{table}\n{out}/disparities.png, table3.md, metrics.json")
