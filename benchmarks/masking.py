"""What masking costs beside moving the same pixels once.

Times, interleaved in one run: a plain copy of a batch, one ``torch.where``, the filters alone, and
each strategy's masking of one view given its saliency map. Ratios to the copy hold where absolute
times do not: machines are noisy.

    python benchmarks/masking.py [--batch 64] [--size 224] [--device cuda] [--json FILE]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from rich.table import Table
from torch import nn

from mmsalmask.cli import print_table
from mmsalmask.masking import (
    HighPassNoise,
    MeanFill,
    SaliencyMasker,
    StrongBlur,
    blur_fill,
    high_pass,
)
from mmsalmask.provenance import provenance, write_result

# The most that masking one view may cost, in copies of the batch, beyond the filter itself.
TARGETS = {"mean": 4.0, "high-pass": 8.0, "blur": 8.0}


def cases(batch: torch.Tensor) -> dict[str, Callable]:
    """Name → what is timed on one batch (N, 3, H, W)."""
    where = torch.rand(len(batch), 7, 7, device=batch.device) > 0.4
    mask = torch.rand(len(batch), 1, *batch.shape[-2:], device=batch.device) < 0.15
    other = torch.randn_like(batch)
    timed = {
        "copy": lambda: batch.clone(),
        "where": lambda: torch.where(mask, other, batch),
        "filter: high-pass 11x11": lambda: high_pass(batch),
        "filter: blur 31x31": lambda: blur_fill(batch),
    }
    strategies = {"mean": MeanFill(), "high-pass": HighPassNoise(), "blur": StrongBlur()}
    for name, strategy in strategies.items():
        masker = SaliencyMasker(strategy, nn.Identity())
        seen = strategy.see(batch)
        timed[f"{name}: query"] = partial(masker.mask, seen, where)
        timed[f"{name}: hard negative"] = partial(masker.harden, seen, where)
    return timed


def measure(timed: dict[str, Callable], device: torch.device, rounds: int) -> dict[str, float]:
    """Median milliseconds of each case, all cases once per round."""
    times = {name: [] for name in timed}
    for round_ in range(rounds + 1):
        for name, run in timed.items():
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_:  # the first round warms up
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", help="write the figures here")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    batch = torch.randn(arguments.batch, 3, arguments.size, arguments.size, device=device)
    with torch.no_grad():
        milliseconds = measure(cases(batch), device, arguments.rounds)

    copy = milliseconds["copy"]
    table = Table(title=f"masking {arguments.batch} views at {arguments.size} px on {device}")
    for column in ("what", "ms", "copies", "beyond the filter", "target"):
        table.add_column(column, justify="left" if column == "what" else "right")
    rows = {}
    for name, value in milliseconds.items():
        strategy = name.split(":")[0]
        # The blur is the fill of its strategy; high-pass views are filtered before masking.
        filter_ = milliseconds["filter: blur 31x31"] if strategy == "blur" else 0.0
        beyond = (value - filter_) / copy if strategy in TARGETS else None
        rows[name] = {"ms": value, "copies": value / copy, "copies_beyond_filter": beyond}
        table.add_row(
            name,
            f"{value:.1f}",
            f"{value / copy:.2f}",
            "" if beyond is None else f"{beyond:.2f}",
            "" if beyond is None else f"{TARGETS[strategy]:.0f}",
        )
    print_table(table)
    if arguments.json:
        setting = {"batch": arguments.batch, "size": arguments.size, "rounds": arguments.rounds}
        write_result(arguments.json, {**provenance(0), **setting, "results": rows})
        print(f"written: {arguments.json}")


if __name__ == "__main__":
    main()
