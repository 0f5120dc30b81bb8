"""A run on shards or on a Hugging Face dataset is the run on the folder, bit by bit."""

from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from running import train_and_close
from storing import KINDS, stored

from mmsalmask.config import load_config
from mmsalmask.engine.launch import build_runner

DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo"
TINY = {
    "model.backbone.base_channels": 8,
    "model.backbone.stem_channels": 8,
    "model.neck.in_channels": 64,
    "model.neck.hid_channels": 8,
    "model.queue_len": 8,
    "train_dataloader.batch_size": 4,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "model.data_preprocessor.augment.view.size": 32,
    "train_cfg.max_epochs": 2,
    "default_hooks.checkpoint.interval": 1,
    "custom_hooks": [dict(type="mmsalmask.BrokenImagesHook", limit=0.2)],
}
unique = count()


def run(work: Path, root: str, workers: int = 0, resume: bool = False) -> dict:
    config = load_config(str(DEMO / "mocov2-salmask-mean_resnet18_demo.py"), TINY)
    config.train_dataloader.dataset.data_root = root
    config.train_dataloader.num_workers = workers
    config.work_dir, config.resume = str(work), resume
    config.experiment_name = f"stored_{next(unique)}"
    train_and_close(build_runner(config))
    return torch.load(work / "epoch_2.pth", weights_only=False)["state_dict"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Ten photos of noise in two folders, one of them broken."""
    folder, rng = tmp_path_factory.mktemp("set") / "images", np.random.default_rng(0)
    for i in range(10):
        path = folder / f"class{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(path)
    (folder / "class1" / "3.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def weights(folder, tmp_path_factory) -> dict:
    return run(tmp_path_factory.mktemp("work"), str(folder))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_training_and_resuming_end_where_the_folder_ends(folder, weights, tmp_path, kind):
    root = stored(folder, kind)
    whole = run(tmp_path / "whole", root, workers=1)
    for path in (tmp_path / "whole").glob("epoch_2*"):
        path.unlink()
    (tmp_path / "whole" / "last_checkpoint").unlink(missing_ok=True)
    resumed = run(tmp_path / "whole", root, resume=True)
    assert "3.png" in "".join(p.read_text() for p in (tmp_path / "whole").rglob("*.log"))
    for name, value in weights.items():
        assert torch.equal(value, whole[name]), name
        assert torch.equal(value, resumed[name]), name
