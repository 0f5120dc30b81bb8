"""What a run survives: kills at random moments, which leave no trace in its result, and hours.

    python benchmarks/reliability.py kills [--kills 20] [--seed 0]
    python benchmarks/reliability.py processes
    python benchmarks/reliability.py files
    python benchmarks/reliability.py endurance [--minutes 60]
    python benchmarks/reliability.py precision --dtype bfloat16 [--steps 2000] [--batch 8]

Each part writes its figures into benchmarks/results/reliability.json, beside those of the other.
What they do stands in tests/system, whose tests run the first three.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from system.bad_files import train_on_bad_files  # noqa: E402
from system.endurance import endure, train_in  # noqa: E402
from system.kills import kill_at_random, several_processes  # noqa: E402

from mmsalmask.provenance import provenance, write_result  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "reliability.json"


def _write(part: str, figures: dict, path: Path) -> None:
    result = json.loads(path.read_text()) if path.exists() else {}
    result[part] = {**provenance(), **figures}
    write_result(path, result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["kills", "processes", "files", "endurance", "precision"])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--dtype", choices=["float16", "bfloat16"], default="bfloat16")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, help="images of a step (the demo config's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the runs go (a temporary folder)")
    parser.add_argument("--json", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = arguments.folder
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        if arguments.part == "kills":
            figures = kill_at_random(arguments.kills, arguments.seed, folder)
            _write("kills", figures, arguments.json)
            if any(row["different"] for row in figures["cases"]):
                sys.exit("a run ended differently after it was killed")
        if arguments.part == "endurance":
            _write("endurance", endure(arguments.minutes, folder), arguments.json)
        if arguments.part == "precision":
            figures = train_in(arguments.dtype, arguments.steps, arguments.batch, folder)
            _write(f"precision {arguments.dtype}", figures, arguments.json)
        if arguments.part == "files":
            _write("files", train_on_bad_files(folder), arguments.json)
        if arguments.part == "processes":
            _write("processes", several_processes(folder), arguments.json)


if __name__ == "__main__":
    main()
