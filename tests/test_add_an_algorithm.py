"""The example of docs/add_an_algorithm.md: its files, taken from the page, do what it says."""

import importlib.util
import re
import shutil
import sys
from pathlib import Path

import pytest
import recipes
import torch
import yaml

import mmsalmask.algorithms
from mmsalmask.config import check_config, load_config
from mmsalmask.data.demo import draw_demo_set
from mmsalmask.engine.launch import build_runner
from mmsalmask.errors import InputError
from mmsalmask.registry import MODELS

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(?:python|yaml|markdown)\n# (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NAME = "mmsalmask.algorithms.vicreg"
SMALL = {
    "model.backbone.depth": 18,
    "model.backbone.base_channels": 8,
    "model.backbone.stem_channels": 8,
    "model.neck.in_channels": 64,
    "model.neck.hid_channels": 16,
    "model.neck.out_channels": 16,
    "model.data_preprocessor.augment.view.size": 32,
    "train_dataloader.dataset.pipeline.0.size": 40,
    "train_dataloader.batch_size": 8,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "train_dataloader.pin_memory": False,
    "train_cfg.max_epochs": 2,
    "param_scheduler": [],
    "optim_wrapper.optimizer.lr": 0.1,
    "default_hooks.logger.interval": 1,
    "visualizer.vis_backends": [],
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """The configs of this project with the files of the page, and its class imported."""
    root = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "configs" / "_base_", root / "configs" / "_base_")
    files = dict(BLOCK.findall((ROOT / "docs" / "add_an_algorithm.md").read_text()))
    assert len(files) == 6
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    before = set(MODELS.module_dict)
    load(NAME, root / "mmsalmask/algorithms/vicreg.py")
    yield root
    sys.modules.pop(NAME)
    del mmsalmask.algorithms.vicreg
    for name in set(MODELS.module_dict) - before:
        del MODELS.module_dict[name]


def load(name: str, file: Path):
    """Import a file under a name of its own."""
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, module)
    return module


@pytest.fixture
def recipe(checkout) -> Path:
    (file,) = (checkout / "configs" / "vicreg").glob("*.py")
    return file


def test_its_test_passes(checkout):
    tests = load("page_test_vicreg", checkout / "tests/algorithms/test_vicreg.py")
    found = [check for name, check in vars(tests).items() if name.startswith("test_")]
    assert len(found) == 2
    for check in found:
        check()


def test_its_recipe_trains_on_drawn_images(tmp_path, recipe):
    draw_demo_set(tmp_path, images_per_class=12, classes=("disk", "bars"), size=40)
    torch.manual_seed(0)
    norms = {"model.backbone.norm_cfg.type": "BN", "model.neck.norm_cfg.type": "BN1d"}
    config = load_config(str(recipe), {**SMALL, **norms, "data_root": str(tmp_path / "train")})
    config.work_dir = str(tmp_path / "work")
    runner = build_runner(config)
    seen = []
    masker = runner.model.data_preprocessor.masker
    masker.register_forward_hook(lambda _, views, masked: seen.append((views, masked)))
    start = {name: value.clone() for name, value in runner.model.named_parameters()}
    runner.train()
    scalars = runner.message_hub.log_scalars
    losses, _ = scalars["train/loss"].data
    assert len(losses) == 2 * 24 // 8
    assert losses[-1] < losses[0]
    assert (scalars["train/spread"].data[0] > 0).all()
    for (query, key), masked in seen:
        assert not torch.equal(masked.query, query)
        assert torch.equal(masked.key, key)
        assert len(masked.hard_negatives) == 0
    moved = [n for n, value in runner.model.named_parameters() if not torch.equal(start[n], value)]
    assert {name.partition(".")[0] for name in moved} == {"backbone", "neck"}


def test_hard_negatives_which_it_does_not_take_are_refused(recipe):
    config = load_config(str(recipe), {"model.data_preprocessor.masker.hard_negatives": 1})
    with pytest.raises(InputError, match="VICReg takes two views, the hard negatives"):
        check_config(config)


def test_its_entry_and_its_table_are_rendered_from_the_recipe(checkout, recipe, monkeypatch):
    monkeypatch.setattr(recipes, "ROOT", checkout)
    metafile = recipe.with_name("metafile.yml")
    metafile.write_text(recipes.render_metafile(metafile))
    (model,) = yaml.safe_load(metafile.read_text())["Models"]
    assert model["Name"] == recipe.stem
    assert model["Metadata"] == {
        "Training Data": "any image folder",
        "Epochs": 200,
        "GPUs": 1,
        "Batch Size": 256,
        "Learning Rate": 0.3,
        "Masks": "the query, foreground and background alike; the view's mean; no hard negatives",
        "Localizer": "boundary prior",
    }
    (line,) = re.findall("^.*folder.*$", recipes.render_readme(recipe.with_name("README.md")), re.M)
    assert "| 1 × 256 | 200 | 0.3 |" in line
