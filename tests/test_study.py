"""benchmarks/study.py: what is compared, and what the figures mean."""

from argparse import Namespace
from pathlib import Path

import ablate
import numpy as np
import pytest
import render
import study
import torch
from linear import to_bits
from PIL import Image

from mmsalmask.errors import InputError


def options(out: Path, **others) -> Namespace:
    return Namespace(**{**study.SCALES["small"], "out": out, **others})


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Three classes of five, six and seven pictures."""
    folder = tmp_path_factory.mktemp("photos")
    for label, count in (("a", 5), ("b", 6), ("c", 7)):
        (folder / label).mkdir()
        for i in range(count):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / label / f"{i}.png")
    return folder


def test_the_photos_are_split_by_class_and_none_is_on_both_sides(photos, tmp_path):
    given = options(tmp_path, data=photos, train_per_class=4)
    sides = study.split(given)
    found = [sorted(str(p.relative_to(side)) for p in side.glob("*/*")) for side in sides]
    assert [sum(name[0] == label for name in found[0]) for label in "abc"] == [4, 4, 4]
    assert len(found[1]) == 1 + 2 + 3
    assert not set(found[0]) & set(found[1])
    link = sides[0] / found[0][0]
    assert link.read_bytes() == (photos / found[0][0]).read_bytes()
    assert study.split(given) == sides
    with pytest.raises(InputError, match="holds a split of other photos"):
        study.split(options(tmp_path, data=photos, train_per_class=3))


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


def test_one_seed_of_a_row_is_compared_with_the_same_seed():
    plain = np.array([[True] * 50, [False] * 50])
    results = {
        study.BASELINE: {"0": run(plain[0]), "1": run(plain[1])},
        "late": {"1": run(np.array([True] * 50))},
    }
    assert study.differences(results)["late"]["mean"] == 100


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
def test_a_recipe_is_chosen_without_the_test_photos(photos, tmp_path, monkeypatch, tune):
    seen = []

    def ablate_called_with(name, *words):
        seen.extend(map(str, words))
        Path(seen[seen.index("--json") + 1]).write_text('{"results": {}}')

    monkeypatch.setattr(study, "tool", ablate_called_with)
    given = options(tmp_path, data=photos, train_per_class=4, tune=tune)
    sides = study.split(given)
    assert study.run_rows(given, tmp_path / "plan.yml", sides) == {}
    parsed = ablate.parse_arguments(seen)
    assert parsed.data == str(sides[0])
    assert (parsed.holdout, parsed.test) == ((0.1, None) if tune else (None, str(sides[1])))


def test_every_row_has_the_same_recipe(tmp_path):
    given = options(tmp_path, rows=list(study.ROWS), cfg_options=[], curve=None)
    rows = ablate.read_plan(study.plan(given))
    assert [row.name for row in rows] == list(study.ROWS)
    assert [row.name for row in rows if not row.pretrain] == [study.UNTRAINED]
    ablate.check_rows(rows, given)
    for row in rows:
        config = ablate.load_config(ablate.write_config(row, given, tmp_path))
        optimizer = config.optim_wrapper.optimizer
        assert (optimizer.type, optimizer.lr) == ("SGD", given.lr)
        assert config.train_dataloader.batch_size == given.batch
        assert config.train_cfg.max_epochs == given.epochs
        assert config.model.data_preprocessor.augment.view.size == given.size
        assert config.model.backbone.depth == 18
        if not row.name.startswith("SimCLR"):
            assert config.model.queue_len == given.queue


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
    assert f"| {study.BASELINE} | 52.0 ± 2.8 | 40.0 ± 0.0 |" in text
    assert "| gone | failed |" in text
