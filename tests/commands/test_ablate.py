"""tools/ablate.py: a plan is checked before it runs, goes on where it stopped, and adds up."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.table import Table

from mmsalmask.ablation.plan import Settings, check_rows, read_plan
from mmsalmask.ablation.runs import trained_seconds
from mmsalmask.ablation.table import draw, header, table_rows
from mmsalmask.checkpoint import load_checkpoint
from mmsalmask.cli import print_table
from mmsalmask.commands import ablate
from mmsalmask.config import load_config
from mmsalmask.downstream.tables import markdown_table
from mmsalmask.errors import InputError
from mmsalmask.shipped import CONFIGS

ROOT = Path(__file__).resolve().parents[2]

CONFIG = f"""
_base_ = {str(ROOT / "configs/demo/mocov2-salmask-mean_resnet18_demo.py")!r}
model = dict(
    queue_len=10,
    feat_dim=8,
    backbone=dict(base_channels=8, stem_channels=8),
    neck=dict(in_channels=64, hid_channels=8, out_channels=8))
train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False)
default_hooks = dict(checkpoint=dict(interval=1))
custom_hooks = []
"""
PLAN = {
    "config": "tiny.py",
    "overrides": ["train_cfg.max_epochs=2"],
    "rows": [
        {"name": "untrained", "pretrain": False},
        {
            "name": "random patches",
            "overrides": ["model.data_preprocessor.masker.patches=random"],
        },
    ],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a config, a plan and two classes: six images striped across, six down."""
    folder = tmp_path_factory.mktemp("ablate")
    random = np.random.default_rng(0)
    (folder / "tiny.py").write_text(CONFIG)
    write(folder, PLAN)
    for label, direction in enumerate(("across", "down")):
        (folder / "photos" / direction).mkdir(parents=True)
        for i in range(6):
            pixels = random.integers(0, 256, (32, 1, 3)).repeat(32, 1)
            pixels = pixels.transpose(1, 0, 2) if label else pixels
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(folder / "photos" / direction / f"{i}.png")
    return folder


def write(folder: Path, plan: dict) -> Path:
    (folder / "plan.yml").write_text(yaml.safe_dump(plan))
    return folder / "plan.yml"


def run(place: Path, *words: str, plan: str = "plan.yml") -> dict:
    ablate.main(
        [
            str(place / plan),
            *("--data", str(place / "photos"), "--train-per-class", "2", "--size", "32", "-k", "3"),
            *("--out", str(place / "out"), *words),
        ]
    )
    return json.loads((place / "out" / "results.json").read_text())


def test_plans_and_rows_may_be_those_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "mmsalmask::demo/mocov2_resnet18_demo.py"
    plan = write(tmp_path, {"rows": [{"name": "plain", "config": name}]})
    (row,) = read_plan(plan)
    assert Path(row.config) == CONFIGS / "demo/mocov2_resnet18_demo.py"
    words = ["mmsalmask::ablations/strategies.yml", "--data", "photos"]
    options = ablate.parse_arguments(words)
    assert options.work_dir == Path("work_dirs/strategies")
    rows = read_plan(options.plan)
    assert len(rows) > 3
    assert all(Path(row.config).is_file() for row in rows)


def test_an_interrupted_plan_goes_on_where_it_stopped(place):
    first = run(place, "--json", str(place / "figures" / "copy.json"))
    copy = json.loads((place / "figures" / "copy.json").read_text())
    assert copy == first
    assert first["commit"]
    assert first["hardware"]
    trained = place / "out" / "random-patches" / "seed_0"
    assert first["results"]["random patches"]["0"]["checkpoint"] == str(trained / "epoch_2.pth")
    assert first["results"]["untrained"]["0"]["checkpoint"] == "none"
    text = (trained / "tiny.py").read_text()
    assert "patches='random'" in text
    assert "max_epochs=2" in text
    assert "seed=0" in text
    assert (place / "out" / "plot.png").stat().st_size > 0
    table = (place / "out" / "table.md").read_text()
    assert "| random patches |" in table
    assert "| untrained |" in table

    # As if it had been killed in the second epoch of the second row.
    (trained / "result.json").unlink()
    (trained / "epoch_2.pth").unlink()
    (trained / "last_checkpoint").write_text(str(trained / "epoch_1.pth"))
    (trained / "train.log").unlink()
    untouched = (place / "out" / "untrained" / "seed_0" / "result.json").stat().st_mtime_ns
    second = run(place)
    log = (trained / "train.log").read_text()
    assert "resumed epoch: 1" in log
    assert "Epoch(train) [2]" in log
    assert "Epoch(train) [1]" not in log
    assert (place / "out" / "untrained" / "seed_0" / "result.json").stat().st_mtime_ns == untouched
    assert second["results"]["untrained"] == first["results"]["untrained"]
    assert second["results"]["random patches"]["0"]["checkpoint"].endswith("epoch_2.pth")

    with pytest.raises(SystemExit):
        run(place, "--cfg-options", "model.queue_len=12")


def test_a_row_can_change_its_config_be_followed_and_be_classified_linearly(place, tmp_path):
    rows = [
        {"name": "short queue", "settings": {"model": {"queue_len": 5}}},
        {"name": "plan's own"},
    ]
    shared = {"model": {"queue_len": 7, "feat_dim": 6, "neck": {"out_channels": 6}}}
    plan = {**PLAN, "config": str(place / "tiny.py"), "settings": shared, "rows": rows}
    ablate.main(
        [
            str(write(tmp_path, plan)),
            *("--data", str(place / "photos"), "--test", str(place / "photos")),
            *(
                "--size",
                "32",
                "-k",
                "3",
                "--linear",
                "--curve",
                "1",
                "--out",
                str(tmp_path / "out"),
            ),
        ]
    )
    results = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    for name, queue in (("short queue", 5), ("plan's own", 7)):
        run_ = results[name]["0"]
        state = load_checkpoint(run_["checkpoint"])["state_dict"]
        assert sorted(state["queue"].shape) == sorted((6, queue))
        assert run_["commit"]
        assert run_["seed"] == 0
        assert [epoch for epoch, _ in run_["curves"]["loss"]] == [1, 2]
        assert [epoch for epoch, _ in run_["curves"]["knn_top1"]] == [1, 2]
        # The last point of the curve and the evaluation afterwards are of the same images.
        assert run_["curves"]["knn_top1"][-1][1] == pytest.approx(run_["top1"])
        right = np.unpackbits(np.frombuffer(bytes.fromhex(run_["right"]), np.uint8))[:12]
        assert 100 * right.mean() == pytest.approx(run_["linear_top1"])
    assert "linear top-1 %" in (tmp_path / "out" / "table.md").read_text()


def test_the_time_of_a_run_is_that_of_the_steps_of_all_calls(tmp_path):
    # A call that was stopped after its sixth step, and the one that went on.
    for call, steps in (("first", (4, 6)), ("second", (8, 10, 11))):
        (tmp_path / call / "vis_data").mkdir(parents=True)
        lines = [{"loss": 1.0, "time": 0.5 * step, "epoch": 1, "step": step} for step in steps]
        lines.insert(1, {"knn_top1": 50.0, "step": 1})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / call / "vis_data" / "scalars.json").write_text(text)
    assert trained_seconds(tmp_path) == 4 * 2 + 2 * 3 + 2 * 4 + 2 * 5 + 5.5


def test_a_curve_needs_images_that_nothing_is_trained_on(place, capsys):
    with pytest.raises(SystemExit):
        run(place, "--curve", "1")
    assert "needs images that nothing is trained on" in capsys.readouterr().err


@pytest.fixture
def striped(place, tmp_path) -> Path:
    """The plan, without its pretraining, and ten images of each class."""
    (tmp_path / "tiny.py").write_text(CONFIG)
    write(tmp_path, PLAN)
    for source in sorted((place / "photos").glob("*/*.png")):
        target = tmp_path / "photos" / source.parent.name
        target.mkdir(parents=True, exist_ok=True)
        for i in (0, 6):
            if int(source.stem) + i < 10:
                copy = target / f"{int(source.stem) + i}.png"
                Image.fromarray(np.asarray(Image.open(source)) // (1 + i // 6)).save(copy)
    return tmp_path


def ablate_in(folder: Path, *words: str) -> dict:
    data, out = str(folder / "photos"), str(folder / "out")
    plan = str(folder / "plan.yml")
    ablate.main([plan, "--data", data, "--out", out, "--size", "32", "-k", "3", *words])
    return json.loads((folder / "out" / "results.json").read_text())


def test_rows_are_compared_on_a_held_out_tenth_that_nothing_is_trained_on(striped, capsys):
    found = ablate_in(striped, "--curve", "2")
    assert found["holdout"] == 0.1
    sides = [striped / "out" / "photos" / side for side in ("train", "held_out")]
    names = [{str(path.relative_to(side)) for path in side.glob("*/*")} for side in sides]
    assert [len(each) for each in names] == [18, 2]
    assert not names[0] & names[1]
    assert {name.split("/")[0] for name in names[1]} == {"across", "down"}
    trained = found["results"]["random patches"]["0"]
    assert (trained["train_images"], trained["test_images"]) == (18, 2)
    config = load_config(str(striped / "out" / "random-patches" / "seed_0" / "tiny.py"))
    assert config.train_dataloader.dataset.data_root == str(sides[0])
    (curve,) = config.custom_hooks
    assert [curve[side].data_root for side in ("train", "test")] == [str(side) for side in sides]
    assert "measure what you choose by it once, with --test" in capsys.readouterr().out
    # The final measurement trains on all, which is another run.
    with pytest.raises(SystemExit):
        ablate_in(striped, "--curve=2", "--test", str(striped / "photos"), "--rows", "untrained")
    assert "holds a run with holdout = 0.1, not None" in capsys.readouterr().err


@pytest.mark.parametrize("share", ["0", "1", "-0.5"])
def test_a_share_that_leaves_one_side_empty_is_refused(striped, capsys, share):
    with pytest.raises(SystemExit):
        ablate_in(striped, f"--holdout={share}")
    assert "give a share between 0 and 1" in capsys.readouterr().err


def test_images_too_few_to_hold_any_out_are_told(striped, capsys):
    with pytest.raises(SystemExit):
        ablate_in(striped, "--holdout", "0.01")
    assert "the 20 images of" in capsys.readouterr().err


def test_a_mistake_in_the_last_row_stops_everything_before_the_first_run(place, capsys):
    rows = [*PLAN["rows"], {"name": "last", "overrides": ["model.queue_length=3"]}]
    write(place, {**PLAN, "rows": rows}).rename(place / "wrong.yml")
    with pytest.raises(SystemExit) as caught:
        run(place, "--work-dir", str(place / "wrong"), plan="wrong.yml")
    assert caught.value.code == 2
    assert "row 'last': no config key 'model.queue_length'" in capsys.readouterr().err
    assert not (place / "wrong").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--test", "nowhere"], "image folder nowhere does not exist: give a folder"),
        (["--test", "{photos}/down"], "labels need every image in a subfolder"),
        (["--train-per-class", "6"], "6 training images of each class do not leave images"),
        (["--holdout", "0.4", "-k", "9"], "k = 9 neighbours cannot be drawn from a bank of 8"),
        (["--holdout", "0.4", "--size", "0"], "size must be an integer of at least 1"),
    ],
)
def test_images_that_cannot_be_classified_are_told_before_the_first_run(
    place, tmp_path, capsys, words, told
):
    plan, photos = str(write(place, PLAN)), str(place / "photos")
    words = [word.format(photos=photos) for word in words]
    with pytest.raises(SystemExit, match="2"):
        ablate.main([plan, "--data", photos, "--work-dir", str(tmp_path / "out"), "-k=3", *words])
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out" / "untrained").exists()


def test_a_run_that_fails_is_told_and_the_others_go_on(place, capsys):
    rows = [
        {"name": "cannot", "overrides": ["model.data_preprocessor.masker.grid=40"]},
        {"name": "can", "pretrain": False},
    ]
    write(place, {**PLAN, "rows": rows}).rename(place / "part.yml")
    with pytest.raises(SystemExit) as caught:
        run(place, "--work-dir", str(place / "part"), plan="part.yml")
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "1 of the runs failed: cannot, seed 0: train ended with status 2: error:" in error
    results = json.loads((place / "part" / "results.json").read_text())["results"]
    assert results["cannot"] == {}
    assert "top1" in results["can"]["0"]
    assert "| cannot | – | – |" in (place / "part" / "table.md").read_text()


WRONG = {
    "is not a mapping": [],
    "the key 'row'": {"row": []},
    "settings of row 'a' are no mapping": {
        "rows": [{"name": "a", "config": "tiny.py", "settings": ["model"]}]
    },
    "has no rows": {"config": "tiny.py"},
    "neither row 'a' nor the plan as a whole has a config": {"rows": [{"name": "a"}]},
    "a row has no name": {"config": "tiny.py", "rows": [{"pretrain": False}]},
    "the key 'override'": {"config": "tiny.py", "rows": [{"name": "a", "override": ["b=1"]}]},
    "two rows named 'a'": {"config": "tiny.py", "rows": [{"name": "a"}, {"name": "a"}]},
    "whose folder is the same, a-b": {
        "config": "tiny.py",
        "rows": [{"name": "a b"}, {"name": "a-b"}],
    },
    "overrides of .*plan.yml must be a list": {
        "config": "tiny.py",
        "overrides": "train_cfg.max_epochs=2",
        "rows": [{"name": "a"}],
    },
    "overrides of row 'a' of .* must be a list": {
        "config": "tiny.py",
        "rows": [{"name": "a", "overrides": [{"train_cfg.max_epochs": 2}]}],
    },
    "no row 'b', but a": {"config": "tiny.py", "rows": [{"name": "a"}]},
}


@pytest.mark.parametrize("sentence", WRONG)
def test_a_wrong_plan_is_refused_in_one_sentence(tmp_path, sentence):
    with pytest.raises(InputError, match=sentence):
        read_plan(write(tmp_path, WRONG[sentence]), only=["b"])


def test_a_missing_plan_and_one_that_is_no_yaml_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such plan"):
        read_plan(tmp_path / "plan.yml")
    (tmp_path / "plan.yml").write_text("rows: [")
    with pytest.raises(InputError, match="is not YAML"):
        read_plan(tmp_path / "plan.yml")


def test_the_table_has_mean_and_deviation_over_seeds_and_the_paired_difference():
    def result(top1: float) -> dict:
        return {"top1": top1, "mean_per_class": top1 / 2, "pretraining_seconds": 90}

    results = {
        "first": {0: result(50.0), 1: result(54.0)},
        # Better by 1 and by 3 on the seeds that both have; seed 2 has no partner.
        "second": {0: result(51.0), 1: result(57.0), 2: result(99.0)},
        "once": {1: result(40.0)},
        "never": {},
    }
    assert table_rows(results) == [
        ["first", "52.0 ± 2.8", "26.0 ± 1.4", "", "1.5 ± 0.0"],
        ["second", "69.0 ± 26.2", "34.5 ± 13.1", "2.0 ± 1.4", "1.5 ± 0.0"],
        ["once", "40.0", "20.0", "-14.0", "1.5"],
        ["never", "–", "–", "–", "–"],
    ]


def test_a_row_may_be_called_anything(tmp_path, capsys):
    name = "[mean] a|b $x_$ " + "and so on " * 12
    runs = {0: {"top1": 50.0, "mean_per_class": 50.0, "pretraining_seconds": 60}}
    results = {name: runs, "short": runs}
    table = Table(*header(results))
    table.add_row(*table_rows(results)[0])
    print_table(table)
    assert capsys.readouterr().out.count("[mean] a|b $x_$") == 2
    rows = markdown_table(header(results), table_rows(results)).splitlines()
    assert {row.replace(r"\|", "").count("|") for row in rows} == {6}
    draw(results, tmp_path / "plot.png")
    # The frame of the axis is the longest dark line; the names leave it most of the width.
    dark = np.asarray(Image.open(tmp_path / "plot.png").convert("L")) < 50
    assert dark.sum(1).max() > 0.55 * dark.shape[1]


@pytest.mark.parametrize("plan", sorted((ROOT / "configs" / "ablations").glob("*.yml")))
def test_the_plans_that_are_shipped_can_be_run(plan):
    rows = read_plan(plan)
    settings = Settings("", "", "", Path(), cfg_options=["train_cfg.max_epochs=1"])
    check_rows(rows, settings)
    assert len({(row.config, *row.overrides, row.pretrain) for row in rows}) == len(rows)
