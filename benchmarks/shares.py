"""What benchmarks of shares have in common: how they are called, and what they write."""

import argparse
from collections.abc import Callable
from pathlib import Path

from mmsalmask.provenance import provenance, write_result


def measured(doc: str, measure: Callable[[int, int], dict | list[dict]]) -> None:
    """Measure shares over so many draws from a seed, print them, and write them if asked."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    found = measure(arguments.draws, arguments.seed)
    for row in found.items() if isinstance(found, dict) else found:
        print(row)
    if arguments.json:
        write_result(arguments.json, {**provenance(arguments.seed), "results": found})
        print(f"written: {arguments.json}")
