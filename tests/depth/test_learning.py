"""Depth and motion are learned from video alone: the demo of configs/depth, shortened."""

from pathlib import Path

import pytest
import torch

from mmsalmask.config import load_config
from mmsalmask.depth.rendered_sequence import render_sequence
from mmsalmask.engine.launch import build_runner

CONFIG = Path(__file__).resolve().parents[2] / "configs/depth/monodepth2_resnet18_rendered.py"


@pytest.mark.slow
def test_a_small_net_learns_depth_and_direction_on_a_rendered_drive(tmp_path):
    torch.set_num_threads(1)
    render_sequence(tmp_path / "data", frames=110, held_out=20)
    narrow = {
        f"model.{net}.{name}": 16
        for net in ("encoder", "pose.encoder")
        for name in ("stem_channels", "base_channels")
    }
    config = load_config(
        str(CONFIG),
        {
            **narrow,
            "data_root": str(tmp_path / "data"),
            "work_dir": str(tmp_path / "run"),
            "model.decoder.channels": [8, 16, 16, 32, 64],
            "model.pose.channels": 64,
            "train_dataloader.num_workers": 0,
            "train_dataloader.persistent_workers": False,
            "test_dataloader.num_workers": 0,
            "train_cfg.max_epochs": 14,
            "param_scheduler.0.milestones": [11],
            "optim_wrapper.optimizer.lr": 1e-3,
            "default_hooks.checkpoint.interval": 14,
            "visualizer.vis_backends": [dict(type="LocalVisBackend")],
        },
    )
    config.launcher = "none"
    runner = build_runner(config)
    runner.train()
    measured = runner.test()
    # Seen: 0.83 of the best constant. Five minutes of the whole demo bring it under 0.6.
    assert measured["depth/abs_rel"] < 0.9 * measured["depth/constant_abs_rel"]
    assert measured["translation/mean_deg"] < 15
