"""Test a checkpoint on the test set of a config."""

import argparse
import os

import mmsalmask  # noqa: F401  (installs the seams before a config names another library)
from mmsalmask.cli import check_launcher, config_arguments, report_errors
from mmsalmask.config import load_config
from mmsalmask.engine.launch import build_runner, leave_process_group, set_work_dir
from mmsalmask.errors import InputError


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    config_arguments(parser)
    parser.add_argument("checkpoint", help="a checkpoint of the config's model")
    parser.add_argument("--work-dir", help="where logs and results go (work_dirs/<config>)")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)
    arguments = parser.parse_args()
    os.environ.setdefault("LOCAL_RANK", str(arguments.local_rank))
    return arguments


def main() -> None:
    arguments = parse_arguments()
    with report_errors():
        config = load_config(arguments.config, arguments.cfg_options)
        if config.get("test_dataloader") is None:
            raise InputError(
                f"{arguments.config} has no test_dataloader: a pretraining config has nothing to "
                "test; use tools/knn.py, or the config of a downstream task"
            )
        config.launcher = check_launcher(arguments.launcher)
        config.load_from = arguments.checkpoint
        set_work_dir(config, arguments.work_dir)
        build_runner(config, testing=True).test()
        leave_process_group()


if __name__ == "__main__":
    main()
