"""What holds for all recipes: one direction of data, and parts that are named once."""

import re

import pytest
from mmpretrain.models import BaseSelfSupervisor
from mmpretrain.registry import MODELS
from recipes import CONFIGS, ROOT, metafiles, models

from mmsalmask.config import check_config, load_config
from mmsalmask.registry import MODELS as OURS

RECIPES = {model["Name"]: model for metafile in metafiles() for model in models(metafile)}
PRETRAINING = [
    name
    for name, model in RECIPES.items()
    if "Masks" in model["Metadata"] and not model["Config"].startswith("configs/supervised/")
]


def preprocessor_of(config) -> dict:
    return config.model.get("data_preprocessor") or config.data_preprocessor


@pytest.mark.parametrize("name", PRETRAINING)
def test_a_pretraining_makes_its_views_on_the_device(name):
    config = load_config(str(ROOT / RECIPES[name]["Config"]))
    check_config(config)
    dataset = config.train_dataloader.dataset
    whole, packed = dataset.get("pipeline") or dataset.dataset.pipeline
    assert (whole.type, packed.type) == ("mmsalmask.LoadWhole", "mmsalmask.PackWhole")
    view = preprocessor_of(config).augment.view
    assert whole.size > view.size


def test_there_are_recipes_of_every_kind_to_look_at():
    assert len(PRETRAINING) > 60
    assert len(RECIPES) == len([p for p in CONFIGS.rglob("*.py") if "_base_" not in p.parts])


def test_every_algorithm_has_a_recipe_and_one_that_the_tests_train_on_photos():
    OURS.import_from_location()
    algorithms = {
        f"mmsalmask.{name}"
        for name, part in OURS.module_dict.items()
        if isinstance(part, type) and issubclass(part, BaseSelfSupervisor)
    }
    assert len(algorithms) >= 4
    trained = {"demo": set(), "else": set()}
    for name in PRETRAINING:
        kind = "demo" if RECIPES[name]["Config"].startswith("configs/demo/") else "else"
        trained[kind].add(load_config(str(ROOT / RECIPES[name]["Config"])).model.type)
    for kind, found in trained.items():
        assert sorted(algorithms - found) == [], kind


def test_maskers_and_localizers_are_written_in_base_files_alone():
    parts = re.compile(r"mmsalmask\.(SaliencyMasker|\w+Saliency|RandomView|DeviceAugmentation)'")
    written = [
        path.relative_to(CONFIGS).as_posix()
        for path in CONFIGS.rglob("*.py")
        if parts.search(path.read_text())
    ]
    maskers = [path for path in written if path.startswith("_base_/maskers/")]
    assert len(maskers) >= 7
    assert set(written) - set(maskers) == {
        "_base_/localizers.py",
        "_base_/datasets/device_views.py",
    }


@pytest.mark.parametrize("algorithm", ["mocov2", "simclr"])
def test_views_of_the_workers_are_a_base_and_two_lines(tmp_path, algorithm):
    """The lines of configs/moco/README.md; views and pipeline are mmpretrain's in all but names."""
    readme = (CONFIGS / "moco" / "README.md").read_text()
    (text,) = re.findall(r"```python\n(_base_ = .*?mocov2_views\.py.*?)```", readme, re.DOTALL)
    if algorithm == "simclr":
        text = text.replace("mocov2_views", "simclr_views").replace("4xb32", "4xb64")
        text = text.replace("./mocov2", "../simclr/simclr")
    text = text.replace("'./", f"'{CONFIGS}/moco/").replace("'../", f"'{CONFIGS}/")
    (tmp_path / "own.py").write_text(text)
    config = load_config(str(tmp_path / "own.py"))
    check_config(config)
    assert preprocessor_of(config).augment is None
    load, views, pack = config.train_dataloader.dataset.pipeline
    assert [part.type for part in (load, views, pack)] == [
        "mmsalmask.LoadImage",
        "mmsalmask.MultiView",
        "mmsalmask.PackInputs",
    ]
    crop, jitter, *_ = views.transforms[0]
    strength = {"mocov2": 0.4, "simclr": 0.8}[algorithm]
    assert jitter.transforms[0].brightness == strength
    # As on the device.
    on_device = load_config(str(CONFIGS / "_base_/datasets/device_views.py"))
    view = on_device[f"{algorithm}_augment"].view
    assert (tuple(crop.crop_ratio_range), strength) == (tuple(view.crop_area), view.brightness)


def test_a_base_file_of_a_masker_says_in_a_word_what_it_fills_with():
    for path in sorted((CONFIGS / "_base_" / "maskers").glob("*.py")):
        assert re.match(r"# [A-Z][^\n]+\n", path.read_text()), path
        masker = load_config(str(path)).masker
        assert MODELS.get(masker.type).__name__ == "SaliencyMasker"
