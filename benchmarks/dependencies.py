"""When each required package was last released; fails if one of them is too old.

    python benchmarks/dependencies.py

It asks the package index about each line of requirements.txt and requirements-dev.txt, and writes
benchmarks/results/dependencies.json.
"""

import json
import sys
from datetime import date, timedelta
from pathlib import Path
from urllib.request import urlopen

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
OLDEST = timedelta(days=2 * 365)
KEPT = {
    "ftfy": "mmseg imports it; it has an owner, and Unicode changes slowly",
    "model-index": "only tests/test_metafiles.py uses it, to read metafiles as mim does",
}


def last_release(name: str) -> str:
    """The day of the newest file that the index has of a package."""
    with urlopen(f"https://pypi.org/pypi/{name}/json", timeout=60) as answer:
        releases = json.load(answer)["releases"]
    return max(file["upload_time"][:10] for files in releases.values() for file in files)


def main() -> None:
    lines = [
        line.split("#")[0].strip()
        for name in ("requirements.txt", "requirements-dev.txt")
        for line in (ROOT / name).read_text().splitlines()
    ]
    names = [Requirement(line).name for line in lines if line]
    releases = {name: last_release(name) for name in names}
    checked = {"date": str(date.today()), "last_releases": releases, "kept": KEPT}
    results = ROOT / "benchmarks" / "results" / "dependencies.json"
    results.write_text(json.dumps(checked, indent=1) + "\n")
    limit = str(date.today() - OLDEST)
    old = [f"{name} ({day})" for name, day in releases.items() if day < limit and name not in KEPT]
    sys.exit(f"not released for two years: {', '.join(old)}" if old else 0)


if __name__ == "__main__":
    main()
