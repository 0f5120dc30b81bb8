"""OpenMMLab's ``mim train`` finds the package and trains."""

import shutil
import subprocess
from pathlib import Path

import pytest
from drawn import draw_classes

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "demo" / "mocov2_resnet18_demo.py"


@pytest.mark.skipif(shutil.which("mim") is None, reason="mim is not installed (onedl-mim)")
def test_mim_trains(tmp_path):
    draw_classes(tmp_path / "images")
    words = ["mim", "train", "mmsalmask", CONFIG, "--gpus", "0", "--work-dir", tmp_path / "run"]
    words += ["--cfg-options", f"data_root={tmp_path / 'images'}", "train_cfg.max_epochs=1"]
    words += [
        "model.queue_len=8",
        "train_dataloader.batch_size=8",
        "model.backbone.base_channels=8",
    ]
    words += ["model.backbone.stem_channels=8", "model.neck.in_channels=64"]
    told = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stderr
    assert "Training finished successfully" in told.stdout
    assert (tmp_path / "run" / "epoch_1.pth").is_file()
