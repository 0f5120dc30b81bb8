"""Train what a config describes: pretraining here, downstream tasks of mmdet and mmseg alike.

Exit status: 0 trained to the end; 2 an error of the input, told in a sentence; 75 saved and stopped
after SIGTERM, SIGINT or SIGUSR1, to be started again with --resume. A second signal stops at once.
"""

import argparse
import os

import mmsalmask  # noqa: F401  (installs the seams before a config names another library)
from mmsalmask.cli import check_launcher, config_arguments, report_errors
from mmsalmask.config import load_config
from mmsalmask.engine.launch import (
    build_runner,
    has_checkpoint,
    leave_process_group,
    own_work_dir,
    restarted,
    set_resume,
    set_work_dir,
    train,
    use_amp,
)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    config_arguments(parser)
    parser.add_argument("--work-dir", help="where logs and checkpoints go (work_dirs/<config>)")
    parser.add_argument(
        "--amp",
        nargs="?",
        const="float16",
        choices=["float16", "bfloat16"],
        help="mixed precision: float16 (the default; slow on CPUs) or bfloat16 (fast on some)",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="go on from the newest good checkpoint of the work directory, or from this one; a job "
        "that torchrun or Slurm starts again does so by itself",
    )
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="print environment, config, hooks and all fields, too, as they are in the log file",
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)
    arguments = parser.parse_args()
    os.environ.setdefault("LOCAL_RANK", str(arguments.local_rank))
    return arguments


def main() -> None:
    arguments = parse_arguments()
    with report_errors():
        config = load_config(arguments.config, arguments.cfg_options)
        config.launcher = check_launcher(arguments.launcher)
        set_work_dir(config, arguments.work_dir)
        if arguments.amp:
            use_amp(config, arguments.amp)
        if restarted() and has_checkpoint(config):
            set_resume(config, "auto")
        elif arguments.resume:
            set_resume(config, arguments.resume)
        with own_work_dir(config):
            train(build_runner(config, quiet=not arguments.verbose))
            leave_process_group()


if __name__ == "__main__":
    main()
