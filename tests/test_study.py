"""benchmarks/study.py: what is compared, and what the figures mean."""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import render
import study
import torch
import yaml
from drawn import draw_classes
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from safetensors.torch import load_file

from mmsalmask.ablation.plan import check_rows, read_plan, write_config
from mmsalmask.commands import ablate
from mmsalmask.commands.linear import linear, to_bits
from mmsalmask.config import load_config
from mmsalmask.errors import InputError


def options(out: Path, scale: str = "small", **others) -> Namespace:
    given = {"scale": scale, "out": out, "tune": False, "cfg_options": [], "curve": None, **others}
    return Namespace(**{**study.SCALES[scale], **given})


def test_the_page_takes_the_runs_that_are_done(tmp_path):
    for row, seed, done in (("a b", 0, True), ("a b", 1, False), ("c", 0, True), ("a b", 7, True)):
        folder = tmp_path / "runs" / row.replace(" ", "-") / f"seed_{seed}"
        folder.mkdir(parents=True)
        told = {"name": row, "seed": seed, "amp": "bfloat16"}
        (folder / "run.json").write_text(json.dumps(told))
        (folder / "result.json").write_text(json.dumps({"top1": 50.0} if done else {}))
    given = options(tmp_path, rows=["a b", "other"])
    assert study.finished_runs(given) == {"a b": {"0": {"top1": 50.0, "amp": "bfloat16"}}}
    with pytest.raises(InputError, match="runs holds no finished run of these rows and seeds"):
        study.finished_runs(options(tmp_path, rows=["other"]))


def test_runs_of_other_machines_stay_in_the_file(tmp_path):
    given = options(tmp_path, json=tmp_path / "a.json")
    assert study.earlier_study(given) == {"results": {}}
    earlier = {"mean": {"1": {"top1": 1}}, study.BASELINE: {"0": {"top1": 2}, "1": {"top1": 3}}}
    recipe = {**study.constants(given), "seeds": [7], "jobs": 9, "amp": "bfloat16"}
    given.json.write_text(json.dumps({"recipe": recipe, "results": earlier}))
    assert study.earlier_study(given)["results"] == earlier
    both = study.joined(earlier, {study.BASELINE: {"1": {"top1": 4}}, "blur": {"1": {"top1": 5}}})
    assert list(both.items()) == [
        (study.BASELINE, {"0": {"top1": 2}, "1": {"top1": 4}}),
        ("blur", {"1": {"top1": 5}}),
        ("mean", {"1": {"top1": 1}}),
    ]
    later = study.joined(both, {"mean": {"10": {"top1": 6}, "0": {"top1": 7}}})
    assert list(later["mean"]) == ["0", "1", "10"]
    given.json.write_text(json.dumps({"recipe": {**recipe, "lr": 9}, "results": earlier}))
    with pytest.raises(InputError, match="of another recipe"):
        study.earlier_study(given)


def test_the_baseline_runs_unless_the_file_holds_its_seeds(tmp_path):
    earlier = {"results": {study.BASELINE: {"0": {}, "1": {}}}}
    alone, added = ["mean"], [study.BASELINE, "mean"]
    assert study.with_baseline(options(tmp_path, rows=alone, seeds=[0, 1]), earlier) == alone
    assert study.with_baseline(options(tmp_path, rows=alone, seeds=[1, 2]), earlier) == added
    bootstrapped = options(tmp_path, rows=[study.BOOTSTRAPPED], seeds=[0])
    assert study.with_baseline(bootstrapped, earlier) == [study.BASELINE, study.BOOTSTRAPPED]


def run(right: np.ndarray) -> dict:
    return {"right": to_bits(right), "test_images": len(right)}


def test_differences_are_paired_by_photo_and_seed():
    random = np.random.default_rng(0)
    plain, other = random.random((2, 3, 203)) < 0.6
    better = plain | (random.random(plain.shape) < 0.1)
    rows = {study.BASELINE: plain, "other": other, "better": better}
    found = study.differences(
        {
            name: {str(seed): run(each) for seed, each in enumerate(row)}
            for name, row in rows.items()
        }
    )
    assert set(found) == {"other", "better"}
    for name, row in (("other", other), ("better", better)):
        gain = 100 * (row.mean() - plain.mean())
        assert found[name]["mean"] == pytest.approx(gain, abs=0.01)
        assert found[name]["low"] < found[name]["mean"] < found[name]["high"]
    # Where a photo right before is right again, the pairs tell what their means hide.
    width = {name: row["high"] - row["low"] for name, row in found.items()}
    assert width["better"] < width["other"] / 2
    assert found["better"]["low"] > 0


def test_object_crops_are_compared_with_each_of_their_rivals_alone():
    random = np.random.default_rng(0)
    rows = {name: random.random((2, 203)) < 0.6 for name in ("ours", "first", "second", "other")}
    results = {
        name: {str(seed): run(each) for seed, each in enumerate(row)} for name, row in rows.items()
    }
    found = study.ahead(results, "ours", ("first", "second", "has not run"))
    assert set(found) == {"first", "second"}
    for rival in found:
        gain = 100 * (rows["ours"].mean() - rows[rival].mean())
        assert found[rival]["mean"] == pytest.approx(gain, abs=0.01)
    assert study.ahead({"first": results["first"]}, "ours", ("first",)) == {}


def test_differences_on_another_set_are_of_the_backbones_that_moved():
    def runs(*rights):
        moved = [{"right": np.packbits(r).tobytes().hex(), "test_images": 8} for r in rights]
        return {str(seed): {"right": "ff", "transfer": one} for seed, one in enumerate(moved)}

    results = {
        study.BASELINE: runs([1, 1, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]),
        "moved": runs([1, 1, 1, 1, 0, 0, 0, 0]),
        "stayed": {"0": {"right": "00"}},
        "moved before it was kept what is right": {"0": {"right": "00", "transfer": {"top1": 9.0}}},
    }
    assert study.transferred(results)["moved"]["mean"] == 25.0
    assert list(study.transferred(results)) == ["moved"]


def test_one_seed_of_a_row_is_compared_with_the_same_seed():
    plain = np.array([[True] * 50, [False] * 50])
    results = {
        study.BASELINE: {"0": run(plain[0]), "1": run(plain[1])},
        "late": {"1": run(np.array([True] * 50))},
    }
    assert study.differences(results)["late"]["mean"] == 100
    from_late = study.differences(results, "late")
    assert from_late[study.BASELINE]["mean"] == -100
    assert "late" not in from_late


def test_masks_hide_the_share_of_the_true_object_that_they_are_made_to_hide():
    objects = torch.zeros(4, 224, 224, dtype=torch.bool)
    objects[:, 64:160, 32:192] = True  # of whole patches on a 7×7 grid
    images = torch.rand(4, 3, 224, 224)
    by_grid = study.hidden({"wrong": lambda views: -objects.float()}, images, objects, seed=0)
    assert list(by_grid) == ["4", "7", "14"]
    found = by_grid["7"]
    assert set(found) == {
        "query, random",
        *(
            f"{kind}, {name}"
            for kind in ("query", "hard negative")
            for name in ("true objects", "wrong")
        ),
    }
    assert found["query, random"]["object"] == pytest.approx(15, abs=3)
    assert found["hard negative, true objects"]["object"] == pytest.approx(55, abs=3)
    assert found["hard negative, true objects"]["rest"] == 0
    assert found["hard negative, wrong"]["object"] == 0
    assert found["hard negative, wrong"]["rest"] == pytest.approx(55, abs=3)
    # What balancing is for: the same share of the object every time.
    assert found["query, true objects"]["spread"] < found["query, random"]["spread"]
    # Patches that do not fit the object hide what is none; more of them stray less.
    assert by_grid["4"]["hard negative, true objects"]["rest"] > 2
    assert by_grid["14"]["query, random"]["spread"] < by_grid["4"]["query, random"]["spread"]


@pytest.mark.parametrize("tune", [True, False])
def test_a_recipe_is_chosen_without_the_test_photos(tmp_path, monkeypatch, tune):
    seen = []

    def ablate_called_with(name, *words):
        seen.extend(map(str, words))
        Path(seen[seen.index("--json") + 1]).write_text('{"results": {}}')

    monkeypatch.setattr(study, "call", ablate_called_with)
    sides = tmp_path / "train", tmp_path / "test"
    given = options(tmp_path, train=sides[0], test=sides[1], tune=tune, points=5, workers=1)
    assert study.photo_sides(given) == sides
    assert study.run_rows(given, tmp_path / "plan.yml", sides) == {}
    parsed = ablate.parse_arguments(seen)
    assert parsed.data == str(sides[0])
    assert (parsed.holdout, parsed.test) == ((0.1, None) if tune else (None, str(sides[1])))


@pytest.mark.parametrize("scale", study.SCALES)
def test_every_row_has_the_same_recipe(scale, tmp_path):
    constants = study.SCALES[scale]
    given = options(tmp_path, scale, rows=list(study.ROWS))
    rows = read_plan(study.plan(given))
    assert [row.name for row in rows] == list(study.ROWS)
    assert [row.name for row in rows if not row.pretrain] == [study.UNTRAINED]
    check_rows(rows, given)
    for row in rows:
        config = load_config(write_config(row, given, tmp_path))
        optimizer = config.optim_wrapper.optimizer
        assert (optimizer.type, optimizer.lr) == ("SGD", given.lr)
        assert optimizer.weight_decay == constants["weight_decay"]
        assert config.train_dataloader.batch_size == given.batch
        assert config.train_cfg.max_epochs == given.epochs
        assert config.model.data_preprocessor.augment.view.size == given.size
        backbone = config.model.backbone
        assert (backbone.depth, backbone.base_channels) == (18, constants["width"])
        assert backbone.zero_init_residual == constants["zero_init"]
        if "penalty" not in str(row.overrides):
            assert config.model.head.temperature == constants["temperature"]
        if not row.name.startswith("SimCLR"):
            assert (config.model.queue_len, config.model.momentum) == (4096, 0.99)
            if not row.name.startswith("ADIOS"):
                assert config.model.symmetric == constants["symmetric"]


def plain(part):
    """Tuples and lists are alike in a config."""
    return json.loads(json.dumps(part))


@pytest.mark.parametrize(
    ("scale", "row", "recipe"),
    [
        ("small", "plain MoCo v2", "mocov2_resnet18-w16_1xb128-coslr-50e_imagenette-64px"),
        ("small", "MSCN", "mocov2-mscn_resnet18-w16_1xb128-coslr-50e_imagenette-64px"),
        (
            "small",
            "high-pass",
            "mocov2-salmask-highpass_resnet18-w16_1xb128-coslr-50e_imagenette-64px",
        ),
        ("small", "blur", "mocov2-salmask-blur_resnet18-w16_1xb128-coslr-50e_imagenette-64px"),
        ("small", "mean", "mocov2-salmask-mean_resnet18-w16_1xb128-coslr-50e_imagenette-64px"),
        (
            "small",
            "high-pass, no hard negatives",
            "mocov2-salmask-highpass-nohard_resnet18-w16_1xb128-coslr-50e_imagenette-64px",
        ),
        (
            "small",
            "high-pass filter, no masks",
            "mocov2-filtered_resnet18-w16_1xb128-coslr-50e_imagenette-64px",
        ),
        ("small", "SimCLR", "simclr_resnet18-w16_1xb128-coslr-50e_imagenette-64px"),
        (
            "small",
            "SimCLR, high-pass filter, no masks",
            "simclr-filtered_resnet18-w16_1xb128-coslr-50e_imagenette-64px",
        ),
        (
            "small",
            "SimCLR, high-pass filter, local crops on the object",
            "simclr-objectcrops-highpass_resnet18-w16_1xb128-coslr-50e_imagenette-64px",
        ),
        (
            "gpu",
            "high-pass filter, no masks",
            "mocov2-filtered_resnet18_1xb256-coslr-200e_imagenette-128px",
        ),
        ("gpu", "plain MoCo v2", "mocov2_resnet18_1xb256-coslr-200e_imagenette-128px"),
        (
            "gpu",
            "high-pass",
            "mocov2-salmask-highpass_resnet18_1xb256-coslr-200e_imagenette-128px",
        ),
        (
            "gpu",
            "high-pass, no hard negatives",
            "mocov2-salmask-highpass-nohard_resnet18_1xb256-coslr-200e_imagenette-128px",
        ),
    ],
)
def test_a_recipe_of_imagenette_is_what_the_study_trains(scale, row, recipe, tmp_path):
    (planned,) = read_plan(study.plan(options(tmp_path, scale, rows=[row])))
    child = write_config(planned, options(tmp_path, scale), tmp_path)
    overrides = [pair.split("=", 1) for pair in planned.overrides]
    wanted = load_config(child, {key: yaml.safe_load(value) for key, value in overrides})
    found = load_config(f"{study.ROOT}/configs/imagenette/{recipe}.py")
    for config in (wanted, found):
        # The study names what the recipes leave at its default.
        config.model.setdefault("symmetric", False)
        config.model.setdefault("bn_splits", 1)
        config.train_dataloader.dataset.dataset.data_root = ""
    for part in ("model", "train_dataloader", "optim_wrapper", "train_cfg", "param_scheduler"):
        assert plain(found[part]) == plain(wanted[part]), part


def test_a_row_with_a_net_as_localizer_trains_on_its_cache(tmp_path):
    train, checkpoint = tmp_path / "photos", tmp_path / "net.pth"
    draw_classes(train)
    backbone = study.trunk(4)
    torch.save(
        MMPRETRAIN_MODELS.build({**backbone, "_scope_": "mmpretrain"}).state_dict(), checkpoint
    )
    given = options(tmp_path / "out")
    localizer = dict(backbone=backbone, checkpoint=str(checkpoint))
    made = study.cached_plan(given, study.NET_CROPS, train, localizer, size=64)
    (row,) = read_plan(made)
    check_rows([row], given)
    preprocessor = load_config(write_config(row, given, tmp_path)).model.data_preprocessor
    assert preprocessor.masker.localizer.checkpoint == str(checkpoint)
    maps = load_file(preprocessor.saliency_cache)
    assert any(len(each) == sum(1 for _ in train.glob("*/*")) for each in maps.values())


def test_trials_change_what_they_say_and_nothing_else(tmp_path):
    given = options(tmp_path, tune=True, rows=list(study.trials()))
    rows = {row.name: row for row in read_plan(study.plan(given))}
    assert len(rows) == 2 * len(study.TRIALS) + len(study.ROWS)
    assert rows["MixMask"].settings == rows["plain MoCo v2, as the scale"].settings
    scale = study.SCALES["small"]
    for name, changed in study.TRIALS.items():
        for method in ("plain MoCo v2", "high-pass"):
            model = rows[f"{method}, {name}"].settings["model"]
            found = {
                "zero_init": model["backbone"]["zero_init_residual"],
                "temperature": model["head"]["temperature"],
                "bn_splits": model["bn_splits"],
                "symmetric": model["symmetric"],
                "lr": rows[f"{method}, {name}"].settings["optim_wrapper"]["optimizer"]["lr"],
            }
            assert found == {key: changed.get(key, scale[key]) for key in found}


def test_a_row_that_failed_is_told_in_the_table():
    measures = dict(linear_top1=50.0, linear_mean_per_class=40.0, top1=30.0, mean_per_class=20.0)
    done = {**measures, "pretraining_seconds": 90}
    other = {**done, "linear_top1": 54.0}
    origin = dict(command="c", commit="d", hardware="e", torch="f")
    text = render.study_rows(
        {
            "results": {study.BASELINE: {"0": done, "1": other}, "gone": {}},
            "differences": {},
            **origin,
        }
    )
    assert f"| {study.BASELINE} | 2 | 52.0 ± 2.8 | 30.0 ± 0.0 |" in text
    assert "| gone | 0 | failed |" in text


def test_backbones_are_also_judged_on_another_set(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "PER_CLASS", 5)
    draw_classes(tmp_path / "other")
    file = tmp_path / "runs" / "untrained" / "seed_0" / "result.json"
    file.parent.mkdir(parents=True)
    config = Path(study._config("mocov2"))
    (file.parent.parent / config.name).write_text(f"_base_ = {str(config)!r}\n")
    file.write_text(json.dumps({"checkpoint": "none", "top1": 50.0}))
    # A row may say how the encoder sees images by its overrides alone.
    told = {"overrides": [f"{study.STRATEGY}.a=5"]}
    file.with_name("run.json").write_text(json.dumps(told))
    given = options(tmp_path, transfer=tmp_path / "other", workers=0)
    given.size, given.k = 32, 2
    judged = []

    def judge(*words, cfg_options, **settings):
        judged.append((cfg_options, settings["train_per_class"]))
        return linear(*words, **settings)

    monkeypatch.setattr(study, "linear", judge)
    study.transfer(given)
    assert judged == [({f"{study.STRATEGY}.a": 5}, 5)]
    found = json.loads(file.read_text())
    assert found["top1"] == 50.0
    settings = {"train_per_class": 5, "size": 32, "knn": 2, "each": True, "workers": 0}
    expected = linear(str(config), "none", str(tmp_path / "other"), **settings)
    assert found["transfer"] == {
        "data": "other",
        "top1": expected["knn"]["top1"],
        "linear_top1": expected["top1"],
        "right": expected["right"],
        "test_images": expected["test_images"],
    }
    monkeypatch.setattr(study, "linear", None)  # what is done is not done again
    study.transfer(given)
