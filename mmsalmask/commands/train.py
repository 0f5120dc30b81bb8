"""Train what a config describes: pretraining here, downstream tasks of mmdet and mmseg alike.

    mmsalmask train CONFIG --work-dir runs/first --cfg-options data_root=photos
    mmsalmask train --data photos --work-dir runs/first    # for more: --data photos --help

Exit status: 0 trained to the end; 2 an error of the input, told in a sentence; 75 saved and stopped
after SIGTERM, SIGINT or SIGUSR1, to be started again with --resume. A second signal stops at once.
"""

import argparse
import sys
from collections.abc import Mapping
from typing import Any

import mmsalmask  # noqa: F401  (installs the seams before a config names another library)
from mmsalmask.cli import (
    Parser,
    check_launcher,
    config_arguments,
    parse_launched,
    report_errors,
    tracker_argument,
)
from mmsalmask.config import load_config
from mmsalmask.engine.launch import (
    build_runner,
    has_checkpoint,
    own_work_dir,
    restarted,
    set_resume,
    set_work_dir,
    use_amp,
)
from mmsalmask.engine.launch import train as run
from mmsalmask.engine.processes import leave_process_group
from mmsalmask.engine.tracking import use_tracker
from mmsalmask.errors import InputError


def train(
    config: str,
    work_dir: str | None = None,
    amp: str | None = None,
    resume: str | None = None,
    tracker: str | None = None,
    verbose: bool = False,
    launcher: str = "none",
    cfg_options: Mapping[str, Any] | None = None,
) -> None:
    """Train what a config describes, in this process.

    Args:
        config: a config file, or ``mmsalmask::`` and one of this package.
        work_dir: where logs and checkpoints go; ``None`` for ``work_dirs/<config>``.
        amp: mixed precision, ``"float16"`` or ``"bfloat16"``; ``None`` for float32.
        resume: ``"auto"`` to go on from the newest good checkpoint of the work directory, or a
            checkpoint to go on from.
        tracker: also log to ``"wandb"`` or ``"mlflow"``, see :mod:`mmsalmask.engine.tracking`.
        verbose: print environment, config, hooks and all fields, too.
        launcher: what has started this process and others: ``"none"``, ``"pytorch"``, ``"slurm"``
            or ``"mpi"``.
        cfg_options: overrides of config keys, dotted path → value.

    Raises:
        InputError: whatever in config, data or checkpoints keeps it from training.
        Stopped: a signal stopped it; everything is saved.

    Example::

        train("mmsalmask::demo/mocov2_resnet18_demo.py", cfg_options={"data_root": "photos"})
    """
    cfg = load_config(config, cfg_options)
    if cfg.get("train_dataloader") is None:
        raise InputError(f"{config} has no train_dataloader: take a config that trains")
    cfg.launcher = check_launcher(launcher)
    set_work_dir(cfg, work_dir)
    if amp:
        use_amp(cfg, amp)
    if tracker:
        use_tracker(cfg, tracker)
    if restarted() and has_checkpoint(cfg):
        set_resume(cfg, "auto")
    elif resume:
        set_resume(cfg, resume)
    with own_work_dir(cfg):
        run(build_runner(cfg, quiet=not verbose))
        leave_process_group()


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
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
    tracker_argument(parser)
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="print environment, config, hooks and all fields, too, as they are in the log file",
    )
    return parse_launched(parser, words)


# With one of these, a method and images are given instead of a config.
_PRETRAINING = ("--method", "--data")


def main(words: list[str] | None = None) -> None:
    words = sys.argv[1:] if words is None else words
    if any(word.partition("=")[0] in _PRETRAINING for word in words):
        from mmsalmask.commands import pretrain

        return pretrain.main(words)
    options = parse_arguments(words)
    with report_errors():
        train(**vars(options))
