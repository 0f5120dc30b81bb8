"""Training, testing, resuming and reporting depth, from the command line's point of view."""

import csv
import json
import re
from pathlib import Path

import cv2
import pytest
import torch

from mmsalmask.commands import depth_report
from mmsalmask.config import check_config, load_config
from mmsalmask.depth import report
from mmsalmask.depth.rendered_sequence import render_sequence
from mmsalmask.depth.report import TABLE
from mmsalmask.engine.launch import build_runner, set_resume, set_work_dir
from mmsalmask.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs" / "depth" / "monodepth2_resnet18_rendered.py")

torch.set_num_threads(1)


def options(root, **more):
    """A tiny net and few frames."""
    return {
        "data_root": str(root),
        "model.encoder.stem_channels": 8,
        "model.encoder.base_channels": 8,
        "model.pose.encoder.stem_channels": 8,
        "model.pose.encoder.base_channels": 8,
        "model.pose.channels": 16,
        "model.decoder.channels": [4, 8, 8, 16, 16],
        "train_dataloader.num_workers": 0,
        "train_dataloader.persistent_workers": False,
        "test_dataloader.num_workers": 0,
        "train_cfg.max_epochs": 2,
        "default_hooks.checkpoint.interval": 1,
        "visualizer.vis_backends": [dict(type="LocalVisBackend")],
        **more,
    }


def run(root, work_dir, resume=None, **more):
    config = load_config(CONFIG, options(root, **more))
    config.launcher = "none"
    set_work_dir(config, str(work_dir))
    if resume:
        set_resume(config, str(resume))
    runner = build_runner(config)
    runner.train()
    return runner


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A rendered folder, a work directory with two epochs, and the runner that trained them."""
    folder = tmp_path_factory.mktemp("depth")
    render_sequence(folder / "data", frames=10, held_out=5, size=(32, 96))
    runner = run(folder / "data", folder / "run")
    return folder / "data", folder / "run", runner


def test_training_resumes_where_it_stopped(trained, tmp_path):
    data, work_dir, runner = trained
    resumed = run(data, tmp_path, work_dir / "epoch_1.pth")
    assert resumed.epoch == runner.epoch == 2
    assert resumed.iter == runner.iter == 4
    first, second = (
        torch.load(path / "epoch_2.pth", weights_only=False) for path in (work_dir, tmp_path)
    )
    start = torch.load(work_dir / "epoch_1.pth", weights_only=False)
    assert second["optimizer"]["state"][0]["step"] == first["optimizer"]["state"][0]["step"] == 4
    name = "decoder.heads.0.weight"
    moved = (second["state_dict"][name] - start["state_dict"][name]).abs().max()
    assert 0 < moved < 0.01


def test_report_draws_disparities_and_adds_a_row_to_table_3(trained, tmp_path, capsys):
    data, work_dir, _ = trained
    out = tmp_path / "report"
    own = [
        f"{key}={value}".replace(" ", "")
        for key, value in options(data).items()
        if key != "visualizer.vis_backends"
    ]
    depth_report.main(
        [
            CONFIG,
            str(work_dir / "epoch_2.pth"),
            "--work-dir",
            str(out),
            "--images",
            "2",
            "--name",
            "ours",
        ]
        + ["--cfg-options", *own, f"work_dir={tmp_path / 'run'}"]
    )
    measured = json.loads((out / "metrics.json").read_text())
    table = (out / "table3.md").read_text()
    lines = table.splitlines()
    with TABLE.open(newline="") as file:
        published = list(csv.DictReader(file))
    for line, row in zip(lines[2:], published, strict=False):
        assert line == f"| {' | '.join(row.values())} |"
    row = lines[2 + len(published)]
    assert row.startswith("| **ours** |")
    cells = [float(cell.strip(" *")) for cell in row.split("|")[2:-1]]
    names = ("abs_rel", "sq_rel", "rmse", "rmse_log", "d1", "d2", "d3")
    assert cells == pytest.approx([measured[f"depth/{n}"] for n in names], abs=5.1e-4)
    assert 0 < measured["translation/median_deg"] < 180
    assert "3 images of test_files.txt" in table
    assert "trained along" in table
    picture = cv2.imread(str(out / "disparities.png"))
    assert picture.shape == (2 * 64, 2 * 128, 3)
    assert picture[:, 128:].std() > 20
    assert "| **ours** |" in capsys.readouterr().out


def child(folder, text):
    """A config that inherits the rendered one."""
    path = folder / "child.py"
    path.write_text(f"_base_ = {CONFIG!r}\n{text}")
    return str(path)


def test_report_needs_nothing_that_the_encoder_once_started_from(trained, tmp_path):
    data, work_dir, _ = trained
    start = "dict(_delete_=True, type='Pretrained', checkpoint='gone.pth')"
    config = child(tmp_path, f"model = dict(encoder=dict(init_cfg={start}))")
    table, _ = report.depth_report(
        config, str(work_dir / "epoch_2.pth"), tmp_path / "out", 1, options=options(data)
    )
    assert "**this run**" in table


def test_a_pipeline_without_truth_is_one_sentence(trained, tmp_path):
    data, work_dir, _ = trained
    config = child(
        tmp_path,
        "load, resize, _, pack = _base_.test_pipeline\n"
        "test_dataloader = dict(dataset=dict(with_motion=False, pipeline=[load, resize, pack]))",
    )
    with pytest.raises(InputError, match="put LoadTrueDepth into the test pipeline"):
        report.depth_report(
            config, str(work_dir / "epoch_2.pth"), tmp_path / "out", 1, options=options(data)
        )


@pytest.mark.parametrize(
    "config", sorted(Path(CONFIG).parent.glob("*.py")), ids=lambda path: path.stem
)
def test_every_depth_config_is_accepted_and_names_what_it_does(config):
    loaded = load_config(str(config))
    check_config(loaded)
    assert loaded.model.freeze_encoder is ("frozen" in config.stem)
    assert loaded.model.encoder.depth == int(re.search(r"resnet(\d+)", config.stem)[1])
    for loader in (loaded.train_dataloader, loaded.test_dataloader):
        steps = [step.type.rpartition(".")[2] for step in loader.dataset.pipeline]
        assert ("HighPassFilter" in steps) is ("highpass" in config.stem)
        width, height = loader.dataset.pipeline[1].scale
        if "kitti" in config.stem:
            assert config.stem.endswith(f"{width}x{height}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--published", "/nowhere.csv"], "there is no table /nowhere.csv"),
        (["--images", "0"], "give at least 1"),
        ([], "there is no checkpoint absent.pth"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as leave:
        depth_report.main([CONFIG, "absent.pth", *arguments])
    assert leave.value.code == 2
    assert message in capsys.readouterr().err
