"""Judge a pretraining without labels, beside an untrained net.

mmsalmask diagnose work_dirs/mine/epoch_200.pth photos
"""

import argparse
from pathlib import Path

import mmsalmask as sm
from mmsalmask.cli import Parser, report_errors
from mmsalmask.commands.embed import model_arguments
from mmsalmask.provenance import provenance, write_result


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    model_arguments(parser)
    parser.add_argument("--number", type=int, default=2000, help="of images (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the views and the untrained net")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here, too")
    return parser.parse_args(arguments)


@report_errors()
def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    found = sm.diagnose(
        options.model,
        options.images,
        options.number,
        options.size,
        options.batch_size,
        options.device,
        options.workers,
        options.seed,
    )
    print(found)
    if options.json:
        facts = {"model": options.model, "data": options.images}
        write_result(options.json, {**found.to_dict(), **facts, **provenance(options.seed)})
