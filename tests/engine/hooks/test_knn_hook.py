"""kNN during pretraining: right figures, on time, and a training that does not notice."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import get_worker_info

from mmsalmask.data import ImageFolder
from mmsalmask.data.demo import draw_demo_set
from mmsalmask.engine.launch import build_runner
from mmsalmask.errors import InputError
from mmsalmask.evaluation import accuracy, knn_classify
from mmsalmask.evaluation.features import EncoderView, extract_both, load_backbone
from mmsalmask.evaluation.labelled import labelled_folders
from mmsalmask.registry import DATASETS

CONFIG = """
default_scope = 'mmpretrain'
model = dict(
    type='mmsalmask.MaskedMoCo',
    queue_len=16,
    feat_dim=8,
    data_preprocessor=dict(
        type='mmsalmask.MaskingDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
        masker=dict(
            type='mmsalmask.SaliencyMasker',
            strategy=dict(type='mmsalmask.HighPassNoise'),
            localizer=dict(type='mmsalmask.BoundaryPriorSaliency'))),
    backbone=dict(type='ResNet', depth=18, base_channels=8, stem_channels=8),
    neck=dict(type='MoCoV2Neck', in_channels=64, hid_channels=8, out_channels=8,
              with_avg_pool=True),
    head=dict(type='mmsalmask.HardNegativeContrastiveHead'))
view = [dict(type='RandomResizedCrop', scale=32), dict(type='RandomFlip', prob=0.5)]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='mmsalmask.ImageFolder',
        data_root=ROOT + '/train',
        pipeline=[
            dict(type='mmsalmask.LoadImage'),
            dict(type='MultiView', num_views=2, transforms=[view]),
            dict(type='PackInputs')]))
train_cfg = dict(by_epoch=True, max_epochs=3)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))
visualizer = dict(type='Visualizer', vis_backends=[
    dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
randomness = dict(seed=1)
"""


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    draw_demo_set(root, images_per_class=12, classes=("disk", "bars"), size=40)
    return root


def hook(root, **options):
    sides = {
        side: dict(type="mmsalmask.ImageFolder", data_root=f"{root}/{side}", with_label=True)
        for side in ("train", "test")
    }
    settings = dict(
        type="mmsalmask.KNNHook",
        interval=2,
        size=32,
        metric=dict(type="mmsalmask.KNNMetric", k=(3, 20)),
        num_workers=0,
    )
    return {**settings, **sides, **options}


@DATASETS.register_module()
class StruckFolder(ImageFolder):
    """The worker that loads it gets the signal that is meant for all processes of a job."""

    def __getitem__(self, index):
        if get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__getitem__(index)


class DrawsANumber(Hook):
    def after_train_epoch(self, runner) -> None:
        torch.rand(1)


def train(work: Path, root: Path, hooks: list, own: Hook | None = None) -> dict:
    """Train; return all that was learned and every logged loss."""
    work.mkdir()
    file = work / "config.py"
    file.write_text(f"ROOT = {str(root)!r}\n{CONFIG}")
    config = Config.fromfile(str(file))
    config.update(custom_hooks=hooks, work_dir=str(work), experiment_name=str(work))
    runner = build_runner(config)
    if own is not None:
        runner.register_hook(own)
    runner.train()
    runner.visualizer.close()
    last = torch.load(work / "epoch_3.pth", weights_only=False)
    losses = runner.message_hub.get_scalar("train/loss").data[0].tolist()
    return dict(weights=last["state_dict"], optimizer=last["optimizer"]["state"], losses=losses)


def lines(work: Path) -> list[dict]:
    found = [json.loads(line) for path in work.rglob("scalars.json") for line in path.open()]
    return [line for line in found if "knn_top1" in line]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, shapes):
    """The same training with the hook, without it, and with one random number drawn instead."""
    folder = tmp_path_factory.mktemp("runs")
    return folder, {
        "with": train(folder / "with", shapes, [hook(shapes, num_workers=1)]),
        "without": train(folder / "without", shapes, []),
        "drawn": train(folder / "drawn", shapes, [], DrawsANumber()),
    }


def test_training_is_the_same_bit_for_bit_with_the_hook_and_without(runs):
    _, found = runs
    first, second = found["with"], found["without"]
    assert first["losses"] == second["losses"]
    assert first["weights"].keys() == second["weights"].keys()
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), name
    for key, state in first["optimizer"].items():
        buffer = second["optimizer"][key]["momentum_buffer"]
        assert torch.equal(state["momentum_buffer"], buffer), key
    # A single number drawn in between would have been noticed.
    assert found["drawn"]["losses"] != second["losses"]


def test_the_figures_are_those_of_the_checkpoint_of_that_epoch(runs, shapes):
    folder, _ = runs
    logged = lines(folder / "with")
    assert [line["step"] for line in logged] == [2, 3]
    config = Config.fromfile(str(folder / "with" / "config.py"))
    sets = labelled_folders(str(shapes / "train"), str(shapes / "test"), None, 0, size=32)
    for line in logged:
        path = str(folder / "with" / f"epoch_{line['step']}.pth")
        backbone = load_backbone(config, path, seed=0)
        found = extract_both(backbone, EncoderView(config), sets, "cpu", workers=0)
        for k, ending in ((3, ""), (20, "_k20")):
            predicted = knn_classify(found.train, found.train_labels, found.test, k)
            top1, per_class = accuracy(predicted, found.test_labels)
            assert line[f"knn_top1{ending}"] == pytest.approx(top1)
            assert line[f"knn_mean_per_class{ending}"] == pytest.approx(per_class)


def test_terminal_and_tensorboard_tell_the_figures(runs):
    folder, _ = runs
    logged = lines(folder / "with")
    (log,) = (folder / "with").rglob("*.log")
    for line in logged:
        assert f"kNN after epoch {line['step']}: knn_top1 {line['knn_top1']:.2f}" in log.read_text()
    (events,) = (folder / "with").rglob("events.out.tfevents.*")
    points = EventAccumulator(str(events)).Reload().Scalars("knn_top1")
    assert [point.step for point in points] == [2, 3]
    values = [line["knn_top1"] for line in logged]
    assert [point.value for point in points] == pytest.approx(values)


def test_both_sides_of_one_folder_may_be_given(tmp_path, shapes):
    sides = {
        side: dict(
            type="mmsalmask.PerClassSplit",
            data_root=f"{shapes}/train",
            split=side,
            train_per_class=10,
        )
        for side in ("train", "test")
    }
    train(tmp_path / "run", shapes, [hook(shapes, interval=3, **sides)])
    (line,) = lines(tmp_path / "run")
    assert line["step"] == 3
    assert line["knn_top1"] in (0, 25, 50, 75, 100)  # of two images of each class


def test_what_cannot_work_is_told_before_training(tmp_path, shapes):
    unlabelled = dict(type="mmsalmask.ImageFolder", data_root=f"{shapes}/test")
    for name, options, sentence in (
        ("k", dict(metric=dict(type="mmsalmask.KNNMetric")), r"k = 200 .* from a bank of 24"),
        ("label", dict(test=unlabelled), "have no labels: set with_label=True"),
        ("interval", dict(interval=0), "interval must be an integer of at least 1"),
    ):
        with pytest.raises(InputError, match=sentence):
            train(tmp_path / name, shapes, [hook(shapes, **options)])
        assert not list(tmp_path.rglob("*.pth"))


def test_a_signal_to_all_processes_leaves_its_workers_alive(shapes, tmp_path):
    sides = {
        side: dict(type="mmsalmask.StruckFolder", data_root=f"{shapes}/{side}", with_label=True)
        for side in ("train", "test")
    }
    train(tmp_path / "work", shapes, [hook(shapes, **sides, num_workers=1)])
    assert len(lines(tmp_path / "work")) == 2
