"""List the trained encoders that come with this package, and the methods to pretrain by."""

import argparse

from rich.table import Table

import mmsalmask as sm
from mmsalmask.cli import Parser, print_table, report_errors


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--methods", action="store_true", help="the methods alone")
    return parser.parse_args(arguments)


def models() -> Table:
    """Name, data and accuracies of each encoder."""
    table = Table("model", "data", "epochs", "kNN", "linear", title="mmsalmask.get_model(…)")
    for name, model in sm.list_models().items():
        results = (model["results"].get(key) for key in ("kNN Classification", "Linear Evaluation"))
        shown = ("" if value is None else f"{value:.1f} %" for value in results)
        table.add_row(name, str(model["data"]), str(model["epochs"]), *shown)
    return table


def methods() -> Table:
    """Name, recipe and batch of each method."""
    table = Table("method", "images a step", "recipe", title="mmsalmask train --method …")
    for name, recipe in sm.list_methods().items():
        table.add_row(name, str(recipe.batch_size), recipe.config)
    return table


@report_errors()
def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    if not options.methods:
        print_table(models())
    print_table(methods())
