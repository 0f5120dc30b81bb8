"""How much of twice the speed do two processes give, on one thread each?

Trains configs/demo/mocov2-salmask-mean_resnet18_demo.py on photos by torchrun with one and
with two processes, in turns, and compares the images per second that they log.

    python benchmarks/two_processes.py --data caltech101/ --json two_processes.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from mmsalmask.provenance import provenance, write_result

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "demo" / "mocov2-salmask-mean_resnet18_demo.py"


def images_per_second(processes: int, options: argparse.Namespace) -> float:
    """Median of a run's log lines, without the first, in which everything starts."""
    with tempfile.TemporaryDirectory() as work:
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc_per_node={processes}", str(ROOT / "tools" / "train.py"), str(CONFIG)),
            *("--launcher", "pytorch", "--work-dir", work, "--cfg-options"),
            *(f"data_root={options.data}", f"train_dataloader.batch_size={options.batch}"),
            *("train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False"),
            *("train_cfg.max_epochs=1", "default_hooks.checkpoint.interval=100"),
            f"train_dataloader.dataset.indices={processes * options.batch * options.steps}",
            *("default_hooks.logger.interval=5", "custom_hooks.0.interval=5"),
            "log_processor.window_size=5",
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        subprocess.run(command, check=True, capture_output=True, env=environment)
        (log,) = Path(work).glob("*/vis_data/scalars.json")
        lines = [json.loads(line) for line in log.read_text().splitlines()]
    speeds = [line["images_per_second"] for line in lines if "images_per_second" in line]
    return statistics.median(speeds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a folder of photos")
    parser.add_argument("--batch", type=int, default=32, help="images of a process (%(default)s)")
    parser.add_argument("--steps", type=int, default=25, help="of a run (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="write the figures here")
    options = parser.parse_args()
    speeds = {1: [], 2: []}
    for _ in range(options.rounds):
        for processes, found in speeds.items():
            found.append(images_per_second(processes, options))
    one, two = (statistics.median(found) for found in speeds.values())
    result = {
        "images_per_second": {"1": one, "2": two},
        "efficiency": two / (2 * one),
        "batch_of_a_process": options.batch,
        "rounds": options.rounds,
    }
    print(f"1 process {one:.0f} images/s, 2 processes {two:.0f}, efficiency {two / one / 2:.0%}")
    if options.json:
        write_result(options.json, {**provenance(seed=0), **result})


if __name__ == "__main__":
    main()
