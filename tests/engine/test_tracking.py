"""Curves in a tracker: of one run, unbroken after a kill, and never the end of a training."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from drawn import draw_classes
from mmengine.config import Config
from running import run_tool

from mmsalmask.engine import tracking
from mmsalmask.engine.tracking import MLflowBackend, WandbBackend, use_tracker
from mmsalmask.errors import InputError

SMALL = """
_base_ = 'mmsalmask::demo/mocov2_resnet18_demo.py'
data_root = '{images}'
model = dict(
    queue_len=8,
    backbone=dict(base_channels=8, stem_channels=8),
    neck=dict(in_channels=64, hid_channels=16),
    data_preprocessor=dict(augment=dict(view=dict(size=32))))
train_dataloader = dict(
    batch_size=8, num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root))
train_cfg = dict(max_epochs={epochs})
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1, max_keep_ckpts=-1))
custom_hooks = []
"""


@pytest.fixture
def config(tmp_path):
    draw_classes(tmp_path / "images")
    file = tmp_path / "small.py"
    file.write_text(SMALL.format(images=tmp_path / "images", epochs=16))
    return file


def killed_and_resumed(config: Path, tracker: str, environment: dict) -> Path:
    """Its work directory, after a SIGKILL in the middle and a resumed training to the end."""
    folder = config.parent / "run"
    words = [sys.executable, "-m", "mmsalmask", "train", config, "--work-dir", folder]
    words += ["--tracker", tracker]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment}
    with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL) as training:
        for _ in range(3000):
            if (folder / "epoch_2.pth").exists() or training.poll() is not None:
                break
            time.sleep(0.1)
        training.send_signal(signal.SIGKILL)
    assert (folder / "epoch_2.pth").exists()
    assert not (folder / "epoch_16.pth").exists()
    subprocess.run([*words, "--resume"], env=environment, check=True, stdout=subprocess.DEVNULL)
    return folder


def logged(folder: Path) -> dict[int, float]:
    """Step → loss, of the local files."""
    lines = [
        json.loads(line)
        for file in sorted(folder.glob("*/vis_data/scalars.json"))
        for line in file.read_text().splitlines()
    ]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def check_unbroken(points: list[tuple[int, float]], folder: Path) -> None:
    expected = logged(folder)
    assert set(expected) == set(range(1, 49))
    assert {step for step, _ in points} == set(expected)
    for step, loss in points:  # what the kill undid was trained once more, with the same values
        assert loss == pytest.approx(expected[step], rel=1e-5)


@pytest.fixture
def mlflow_server(tmp_path):
    pytest.importorskip("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    words += ["--artifacts-destination", str(tmp_path / "artifacts")]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(900):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, (tmp_path / "server.log").read_text()
            time.sleep(0.1)
        else:
            pytest.fail((tmp_path / "server.log").read_text())
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_mlflow_has_one_unbroken_run(config, mlflow_server):
    folder = killed_and_resumed(config, "mlflow", {"MLFLOW_TRACKING_URI": mlflow_server})
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_server)
    (experiment,) = [e for e in client.search_experiments() if e.name == "mmsalmask"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "run"
    points = client.get_metric_history(run.info.run_id, "loss")
    check_unbroken([(point.step, point.value) for point in points], folder)
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["config.py"]


def wandb_records(content: bytes) -> Iterator[bytes]:
    """The records of an offline run, which lie in LevelDB's log format behind seven bytes."""
    place, record = 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:  # no room for a head: zeros up to the next block
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", content[place : place + 7])
        record += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_wandb_has_one_unbroken_run_offline(config):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    folder = killed_and_resumed(config, "wandb", {"WANDB_MODE": "offline"})
    run = json.loads((folder / "tracker.json").read_text())["wandb"]
    files = sorted(folder.glob(f"wandb/offline-run-*-{run}/*.wandb"))
    assert len(files) == 2 == len(list(folder.glob("wandb/offline-run-*")))
    points = []
    for file in files:
        for content in wandb_records(file.read_bytes()):
            record = Record.FromString(content)
            items = {
                item.key or item.nested_key[0]: json.loads(item.value_json)
                for item in record.history.item
            }
            if "loss" in items:
                points.append((items["step"], items["loss"]))
    check_unbroken(points, folder)


def test_a_tracker_that_is_not_there_is_told(monkeypatch):
    config = Config(dict(work_dir="x", visualizer=dict(vis_backends=[])))
    with pytest.raises(InputError, match="tracker must be 'wandb' or 'mlflow', got 'comet'"):
        use_tracker(config, "comet")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"not installed: pip install 'mmsalmask\[wandb\]'"):
        use_tracker(config, "wandb")


def test_a_tracker_is_asked_for_once():
    config = Config(dict(work_dir="x", visualizer=dict(vis_backends=[dict(type="A")])))
    pytest.importorskip("wandb")
    for _ in range(2):
        use_tracker(config, "wandb")
    assert [one.type for one in config.visualizer.vis_backends] == ["A", "mmsalmask.WandbBackend"]


def test_a_config_without_a_visualizer_gets_one():
    pytest.importorskip("wandb")
    config = Config(dict(work_dir="x", visualizer=None))
    use_tracker(config, "wandb")
    kinds = [one.type for one in config.visualizer.vis_backends]
    assert kinds == ["LocalVisBackend", "mmsalmask.WandbBackend"]


def test_a_server_that_is_not_there_is_told_before_the_first_step(config, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    folder = config.parent / "run"
    words = (str(config), "--work-dir", str(folder), "--tracker", "mlflow")
    sentence = run_tool("train.py", *words).sentence()
    assert sentence.startswith("mlflow cannot start a run (")
    assert not list(folder.glob("*.pth"))


@pytest.mark.parametrize("kind", [WandbBackend, MLflowBackend])
def test_a_lost_point_does_not_end_a_training(kind, tmp_path, monkeypatch):
    class Broken:
        def __getattr__(self, name):
            raise ConnectionError("the server\n is gone")

    backend = kind(str(tmp_path), str(tmp_path))
    monkeypatch.setattr(backend, "_start", lambda module, run: "id")
    backend._run = Broken()
    told = []
    monkeypatch.setattr(tracking, "print_log", lambda *words: told.append(words[0]))
    monkeypatch.setattr(tracking.importlib, "import_module", lambda name: Broken())
    backend.add_scalars({"loss": 1.0}, 3)
    assert told == [f"{kind.name} lost a point: the server is gone"]
