"""Rooms that only some users need are imported when they are used."""

import subprocess
import sys

# mmpretrain imports mmdet where it is there; nothing of ours may, nor mmseg.
PROGRAM = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name in ("mmdet", "mmseg"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
import mmsalmask.algorithms
import mmsalmask.checkpoint
import mmsalmask.data
import mmsalmask.engine
import mmsalmask.evaluation
from mmengine.registry import MODELS, init_default_scope
from mmsalmask.config import check_config, load_config

config = load_config("mmsalmask::demo/mocov2-salmask-mean_resnet18_demo.py")
check_config(config)
init_default_scope(config.default_scope)
MODELS.build(config.model)
print(*(name for name in sys.modules if name.startswith(("mmsalmask.depth", "mmsalmask.commands"))))
"""


def test_pretraining_needs_neither_depth_nor_mmdet_nor_mmseg():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
