"""Pretrain on any images: what ``mmsalmask train`` does where it gets --method or --data.

    mmsalmask train --method mocov2-salmask-highpass --data photos --work-dir runs/first

The recipe of the method is fitted to the arguments and written to WORK_DIR/config.py.
`mmsalmask models --methods` lists the methods.
"""

import argparse
import inspect

import mmsalmask as sm
from mmsalmask.cli import Parser, cfg_options_argument, report_errors, tracker_argument


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    default = {
        name: parameter.default
        for name, parameter in inspect.signature(sm.pretrain).parameters.items()
    }
    parser = Parser(__doc__)
    parser.add_argument("--method", default=default["method"], help="(%(default)s)")
    parser.add_argument(
        "--data", nargs="+", required=True, help="folders, or text files with a path a line"
    )
    parser.add_argument("--work-dir", required=True, help="where checkpoints and logs go")
    parser.add_argument(
        "--backbone",
        default=default["backbone"],
        help="resnet18 … resnet152, a ConvNet of torchvision, or timm/NAME (%(default)s)",
    )
    for name, told in (
        ("size", "pixels of the views"),
        ("epochs", "over all images"),
        ("batch_size", "images of a step, over all devices"),
        ("devices", "GPUs, a process each"),
    ):
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=int, default=default[name], help=f"{told} (%(default)s)")
    parser.add_argument("--lr", type=float, help="(the recipe's, in proportion to the batch)")
    parser.add_argument("--amp", nargs="?", const="float16", choices=["float16", "bfloat16"])
    parser.add_argument("--localizer", help="class of another localizer than the recipe's")
    cfg_options_argument(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="CHECKPOINT",
        help="go on from the newest good checkpoint of the work directory, or from this one",
    )
    tracker_argument(parser)
    return parser.parse_args(arguments)


@report_errors()
def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    sm.pretrain(
        options.data[0] if len(options.data) == 1 else options.data,
        options.work_dir,
        options.method,
        options.backbone,
        options.size,
        options.epochs,
        options.batch_size,
        options.lr,
        options.amp,
        options.devices,
        options.localizer,
        options.cfg_options,
        options.resume,
        options.tracker,
    )
