"""Test a checkpoint on the test set of a config."""

import argparse
from collections.abc import Mapping
from typing import Any

import mmsalmask  # noqa: F401  (installs the seams before a config names another library)
from mmsalmask.cli import Parser, check_launcher, config_arguments, parse_launched, report_errors
from mmsalmask.config import load_config
from mmsalmask.engine.launch import build_runner, set_work_dir
from mmsalmask.engine.processes import leave_process_group
from mmsalmask.errors import InputError


def test(
    config: str,
    checkpoint: str,
    work_dir: str | None = None,
    launcher: str = "none",
    cfg_options: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Test a checkpoint on the test set of a config.

    Args:
        config: a config file, or ``mmsalmask::`` and one of this package.
        checkpoint: of the config's model.
        work_dir: where logs and results go; ``None`` for ``work_dirs/<config>``.
        launcher: what has started this process and others: ``"none"``, ``"pytorch"``,
            ``"slurm"`` or ``"mpi"``.
        cfg_options: overrides of config keys, dotted path → value.

    Returns:
        The figures of the config's evaluator by their names.

    Raises:
        InputError: the config has no test set, or checkpoint or data do not fit it.
    """
    cfg = load_config(config, cfg_options)
    if cfg.get("test_dataloader") is None:
        raise InputError(
            f"{config} has no test_dataloader: a pretraining config has nothing to "
            "test; use `mmsalmask knn`, or the config of a downstream task"
        )
    cfg.launcher = check_launcher(launcher)
    cfg.load_from = checkpoint
    set_work_dir(cfg, work_dir)
    figures = build_runner(cfg, testing=True).test()
    leave_process_group()
    return figures


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    config_arguments(parser)
    parser.add_argument("checkpoint", help="a checkpoint of the config's model")
    parser.add_argument("--work-dir", help="where logs and results go (work_dirs/<config>)")
    return parse_launched(parser, words)


def main(words: list[str] | None = None) -> None:
    options = parse_arguments(words)
    with report_errors():
        test(**vars(options))
