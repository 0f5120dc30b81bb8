"""Pretrain with plain MoCo v2 and each strategy on one image folder, and compare by kNN.

Every method has the same recipe (configs/demo), number of epochs and seed; the untrained net is
the baseline. Labels are used by the kNN classifier alone: --train-per-class images of every class
are the neighbours, the rest is classified. A method whose result is there already is not run again.

    python benchmarks/pretrain_knn.py --data caltech101/ --epochs 10 --jobs 2 --json FILE
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from results_file import provenance, write_result
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
METHODS = {
    "untrained": "mocov2_resnet18_demo",
    "plain": "mocov2_resnet18_demo",
    "high-pass": "mocov2-salmask-highpass_resnet18_demo",
    "blur": "mocov2-salmask-blur_resnet18_demo",
    "mean": "mocov2-salmask-mean_resnet18_demo",
}


def call(script: str, *words: str, log: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / script), *words]
    with log.open("w") as file:
        # One thread a job: jobs that share cores lose more to waiting than they gain by threads.
        subprocess.run(
            command,
            check=True,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def run(name: str, options: argparse.Namespace) -> dict:
    """Pretrain and evaluate one method; reuse what an earlier call finished."""
    work = Path(options.work_dir) / name
    work.mkdir(parents=True, exist_ok=True)
    finished = work / "result.json"
    if finished.exists():
        return json.loads(finished.read_text())
    config = str(ROOT / "configs" / "demo" / f"{METHODS[name]}.py")
    checkpoint, seconds = "none", 0.0
    if name != "untrained":
        start = time.perf_counter()
        call(
            "train.py",
            config,
            f"--work-dir={work}",
            *(["--amp", options.amp] if options.amp else []),
            "--cfg-options",
            f"data_root={options.data}",
            f"train_cfg.max_epochs={options.epochs}",
            f"param_scheduler.0.T_max={options.epochs}",
            f"param_scheduler.0.end={options.epochs}",
            f"randomness.seed={options.seed}",
            "train_dataloader.num_workers=1",
            log=work / "train.log",
        )
        seconds = time.perf_counter() - start
        checkpoint = (work / "last_checkpoint").read_text().strip()
    call(
        "knn.py",
        config,
        checkpoint,
        f"--train={options.data}",
        f"--train-per-class={options.train_per_class}",
        f"--size={options.size}",
        f"--seed={options.seed}",
        f"--json={work / 'knn.json'}",
        log=work / "knn.log",
    )
    knn = json.loads((work / "knn.json").read_text())
    result = {"pretraining_seconds": round(seconds), "config": Path(config).name, "knn": knn}
    write_result(finished, result)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with a subfolder per class")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--size", type=int, default=64, help="pixels, as in the config")
    parser.add_argument("--train-per-class", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--amp", choices=["float16", "bfloat16"])
    parser.add_argument("--jobs", type=int, default=1, help="methods that run at a time")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--work-dir", default="work_dirs/pretrain_knn")
    parser.add_argument("--json", help="write the figures here")
    options = parser.parse_args()
    begin = provenance(options.seed)
    with ThreadPoolExecutor(options.jobs) as pool:
        results = dict(
            zip(
                options.methods,
                pool.map(lambda name: run(name, options), options.methods),
                strict=True,
            )
        )
    table = Table(title=f"kNN after {options.epochs} epochs at {options.size} px")
    for column in ("method", "top-1 %", "mean per class %", "pretraining, min"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, result in results.items():
        knn, minutes = result["knn"], result["pretraining_seconds"] / 60
        table.add_row(name, f"{knn['top1']:.1f}", f"{knn['mean_per_class']:.1f}", f"{minutes:.1f}")
    Console().print(table)
    if options.json:
        recipe = {name: getattr(options, name) for name in ("epochs", "size", "amp", "jobs")}
        write_result(options.json, {**begin, **recipe, "results": results})


if __name__ == "__main__":
    main()
