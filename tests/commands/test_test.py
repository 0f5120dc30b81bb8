"""tools/test.py: the checkpoint's own accuracy on the test set, or one sentence."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from PIL import Image
from running import Outcome, run_tool

from mmsalmask.config import load_config
from mmsalmask.data import ImageNet100

ROOT = Path(__file__).resolve().parents[2]
CONFIG = f"""
_base_ = {str(ROOT / "configs/supervised/resnet50_4xb64-steplr-100e_in100.py")!r}
model = dict(
    backbone=dict(depth=18, base_channels=8, stem_channels=8), head=dict(in_channels=64))
test_dataloader = dict(num_workers=0, persistent_workers=False)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A config, an ImageNet folder of 109 images, ten of them of the first class, a checkpoint."""
    folder = tmp_path_factory.mktemp("test")
    (folder / "tiny.py").write_text(CONFIG)
    random = np.random.default_rng(0)
    for place, wnid in enumerate(ImageNet100.METAINFO["classes"]):
        (folder / "imagenet" / "val" / wnid).mkdir(parents=True)
        for i in range(10 if place == 0 else 1):
            pixels = random.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "imagenet" / "val" / wnid / f"{i}.JPEG")
    config = load_config(str(folder / "tiny.py"))
    init_default_scope(config.default_scope)
    model = MODELS.build(config.model)
    with torch.no_grad():  # every image is of class 0, and next of 1, 2, 3, 4
        model.head.fc.weight.zero_()
        model.head.fc.bias.copy_(-torch.arange(100.0))
    torch.save({"state_dict": model.state_dict()}, folder / "constant.pth")
    return folder


def run(place: Path, checkpoint: str, *options: str, config: str = "tiny.py") -> Outcome:
    words = [str(place / config), str(place / checkpoint), "--work-dir", str(place / "work")]
    return run_tool("test.py", *words, "--cfg-options", f"data_root={place / 'imagenet'}", *options)


def test_accuracy_is_that_of_the_checkpoint_on_the_test_images(place):
    done = run(place, "constant.pth")
    assert done.status == 0, done.err
    printed = done.out + done.err
    assert f"accuracy/top1: {100 * 10 / 109:.4f}" in printed
    assert f"accuracy/top5: {100 * 14 / 109:.4f}" in printed


def test_bad_input_ends_with_one_sentence(place):
    pretraining = str(ROOT / "configs/demo/mocov2_resnet18_demo.py")
    sentences = {
        "has no test_dataloader": run(place, "constant.pth", config=pretraining).sentence(),
        "no_such.pth": run(place, "no_such.pth").sentence(),
        "constant.pth": run(place, "constant.pth", "model.backbone.depth=34").sentence(),
    }
    for part, sentence in sentences.items():
        assert part in sentence
