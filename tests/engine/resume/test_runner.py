"""Runs that break off and are resumed, inside one process, against the same runs left in peace."""

import itertools
import json
import os
import re
import signal
import time

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop
from running import train_and_close
from system.comparing import differences

from mmsalmask.checkpoint import load_checkpoint, revive
from mmsalmask.engine import ExactRunner
from mmsalmask.engine.resume.safe_checkpoint import run_checkpoints
from mmsalmask.errors import InputError, Stopped


class Model(BaseModel):
    """Its gradient is noise from data and model, so that every draw leaves its trace."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))

    def forward(self, inputs, mode="tensor"):
        if mode == "loss":
            return {"loss": (self.weight * (inputs.mean(0) + torch.rand(3))).sum()}
        torch.rand(5)  # an evaluation may draw, too
        return [self.weight]


class Noise(torch.utils.data.Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, index):
        return {"inputs": torch.rand(3) + index}


class Metric(BaseMetric):
    """The weight itself, so that nearly every evaluation is the best."""

    def process(self, data_batch, data_samples):
        self.results.append(data_samples[0].sum().item())

    def compute_metrics(self, results):
        return {"score": abs(results[0])}


class Power(Exception):
    """It was cut."""


class Cut(Hook):
    """Cuts the power in an iteration or an evaluation, before anything of it is saved."""

    priority = "HIGHEST"

    def __init__(self, iteration=None, evaluation=None):
        self.iteration, self.evaluation = iteration, evaluation

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration:
            raise Power

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == self.evaluation and batch_idx == 2:
            raise Power


class Signal(Hook):
    """Sends this process SIGTERM in some iterations, or in the evaluations after others."""

    priority = "HIGHEST"

    def __init__(self, iterations=(), evaluations=()):
        self.iterations, self.evaluations = iterations, evaluations

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 in self.iterations:
            os.kill(os.getpid(), signal.SIGTERM)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter in self.evaluations and batch_idx == 2:
            os.kill(os.getpid(), signal.SIGTERM)


class Struck(Noise):
    """The worker that loads it gets the signal that is meant for all processes of a job."""

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGTERM)
        return super().__getitem__(index)


def loader(sampler: str = "DefaultSampler", **options) -> dict:
    return {
        "batch_size": 2,
        "num_workers": 0,
        "sampler": {"type": sampler, **options},
        "collate_fn": {"type": "default_collate"},
        "dataset": Noise(),
    }


def run(
    work,
    loop,
    saving,
    resume=None,
    hooks=(),
    accumulate=1,
    sampler="DefaultSampler",
    seed=5,
    precision=None,
    optimizer=None,
    schedule=None,
    batch=2,
    val=None,
):
    runner = ExactRunner(
        Model(),
        work_dir=str(work),
        train_dataloader={**loader(sampler, shuffle=True), "batch_size": batch},
        train_cfg=loop,
        val_dataloader=val or loader(shuffle=False),
        val_cfg={},
        val_evaluator=[Metric()],
        optim_wrapper={
            "optimizer": optimizer or {"type": "SGD", "lr": 1.0, "momentum": 0.9},
            "accumulative_counts": accumulate,
            **(precision or {}),
        },
        param_scheduler=schedule or [{"type": "PolyLR", "by_epoch": loop.get("by_epoch", True)}],
        default_hooks={
            "checkpoint": {
                "type": "mmsalmask.SafeCheckpointHook",
                "save_best": "score",
                "rule": "greater",
                "max_keep_ckpts": 2,
                **saving,
            },
            "logger": {"type": "LoggerHook", "interval": 2},
        },
        custom_hooks=list(hooks),
        resume=resume is not None,
        load_from=None if resume is None else str(resume),
        randomness={"seed": seed},
        experiment_name="always_the_same",
        # As in the configs of mmdet and mmseg.
        visualizer={
            "type": "Visualizer",
            "name": "visualizer",
            "vis_backends": [{"type": "LocalVisBackend"}],
        },
        default_scope="mmengine",
    )
    train_and_close(runner)


def end(work) -> dict:
    """All that the last checkpoint holds, but the time."""
    checkpoint = revive(load_checkpoint(run_checkpoints(work)[0]))
    checkpoint["meta"].pop("time")
    return checkpoint


EPOCHS = {"by_epoch": True, "max_epochs": 4}
ITERATIONS = {"by_epoch": False, "max_iters": 18, "val_interval": 4}
BY_EPOCH, BY_ITERATION = {"interval": 1}, {"interval": 3, "by_epoch": False}
# A loss scale that changes after every third step.
FLOAT16 = {
    "type": "mmsalmask.Float16OptimWrapper",
    "loss_scale": {"init_scale": 8.0, "growth_interval": 3},
}


@pytest.mark.parametrize(
    ("loop", "saving", "options"),
    [
        (EPOCHS, BY_EPOCH, {}),
        (EPOCHS, BY_ITERATION, {}),
        (EPOCHS, BY_ITERATION, {"accumulate": 4}),
        (EPOCHS, BY_EPOCH, {"precision": FLOAT16}),
        (ITERATIONS, BY_ITERATION, {}),
        (ITERATIONS, BY_ITERATION, {"sampler": "InfiniteSampler", "accumulate": 2}),
    ],
)
def test_a_run_cut_off_anywhere_ends_the_same(tmp_path, loop, saving, options):
    run(tmp_path / "whole", loop, saving, **options)
    expected = end(tmp_path / "whole")
    evaluation = 10 if loop is EPOCHS else 16
    cuts = [Cut(iteration=7), Cut(iteration=13), Cut(evaluation=evaluation)]
    for number, cut in enumerate(cuts):
        work = tmp_path / str(number)
        with pytest.raises(Power):
            run(work, loop, saving, hooks=[cut], **options)
        # Whatever was drawn meanwhile, and a process of another seed, must not matter.
        run(work, loop, saving, resume=run_checkpoints(work)[0], **options)
        assert list(differences(end(work), expected)) == []
        assert {path.name for path in work.glob("*.pth")} == {
            path.name for path in (tmp_path / "whole").glob("*.pth")
        }


def files(work) -> list[str]:
    return sorted(path.name for path in work.glob("*.pth"))


def stopped(work, loop, saving, **options) -> None:
    with pytest.raises(Stopped):
        run(work, loop, saving, **options)


@pytest.mark.parametrize(
    ("loop", "saving", "evaluation"),
    [
        (EPOCHS, BY_EPOCH, 10),
        (EPOCHS, BY_EPOCH, 20),  # the last one
        (ITERATIONS, BY_ITERATION, 8),
        (ITERATIONS, BY_ITERATION, 18),
    ],
)
def test_a_signal_in_an_evaluation_stops_the_run_and_the_evaluation_is_repeated(
    tmp_path, loop, saving, evaluation
):
    run(tmp_path / "whole", loop, saving)
    work, resume = tmp_path / "stopped", None
    for _ in range(2):  # and in the repeated evaluation once more
        stopped(work, loop, saving, resume=resume, hooks=[Signal(evaluations=[evaluation])])
        resume = work / f"iter_{evaluation}.pth"
    run(work, loop, saving, resume=resume)
    assert best(work) == best(tmp_path / "whole")
    if evaluation < 18:  # after the last one no checkpoint is written
        assert list(differences(end(work), end(tmp_path / "whole"))) == []


def best(work) -> list[str]:
    return [name for name in files(work) if name.startswith("best")]


def test_a_run_that_was_stopped_several_times_keeps_none_of_its_stops(tmp_path):
    saving, resume = {"interval": 3}, None
    for iteration in (2, 4, 6):
        stopped(tmp_path, EPOCHS, saving, resume=resume, hooks=[Signal([iteration])])
        resume = tmp_path / f"iter_{iteration}.pth"
    run(tmp_path, EPOCHS, saving, resume=resume)
    assert not [name for name in files(tmp_path) if name.startswith("iter")]


def test_a_run_that_goes_on_from_anothers_checkpoint_leaves_that_ones_files(tmp_path):
    stopped(tmp_path / "a", EPOCHS, BY_EPOCH, hooks=[Signal([8])])
    before = files(tmp_path / "a")
    assert {"iter_8.pth", *best(tmp_path / "a")} < set(before)
    run(tmp_path / "b", EPOCHS, BY_EPOCH, resume=tmp_path / "a" / "iter_8.pth")
    assert files(tmp_path / "a") == before
    assert best(tmp_path / "b") != []


def test_a_signal_to_all_processes_leaves_the_workers_of_an_evaluation_alive(tmp_path):
    val = {**loader(shuffle=False), "num_workers": 1, "dataset": Struck()}
    run(tmp_path, {**EPOCHS, "max_epochs": 1}, BY_EPOCH, val=val)
    assert best(tmp_path) != []


def test_runs_that_start_in_one_second_share_no_logs(tmp_path, monkeypatch):
    """mmengine finds logger, message hub and visualizer by a run's name and second."""
    ticks = itertools.count()
    monkeypatch.setattr(time, "time", lambda: 1e9 + next(ticks) / 1e6)
    curves, texts = [], []
    for work in (tmp_path / "first", tmp_path / "second"):
        run(work, EPOCHS, BY_EPOCH)
        (scalars,), (text,) = work.glob("*/vis_data/scalars.json"), work.glob("*/*.log")
        lines = map(json.loads, scalars.read_text().splitlines())
        curves.append([line["step"] for line in lines if "loss" in line])
        texts.append(text.read_text().count("Saving checkpoint at"))
    assert curves[0] == curves[1] == [5 * epoch + i for epoch in range(4) for i in (2, 4)]
    assert texts == [4, 4]


def test_a_best_checkpoint_is_no_place_to_resume_from_exactly(tmp_path):
    run(tmp_path, EPOCHS, BY_EPOCH)
    (best,) = tmp_path.glob("best_*.pth")
    assert end(tmp_path)["message_hub"]["runtime_info"]["exact_resume"] is not None
    work = tmp_path / "again"
    run(work, {**EPOCHS, "max_epochs": 5}, BY_EPOCH, resume=best)
    (log,) = work.rglob("*.log")
    assert "holds no random states" in log.read_text()


def test_a_checkpoint_of_mmengine_can_be_resumed_with_a_warning(tmp_path):
    run(tmp_path, EPOCHS, BY_EPOCH)
    path = run_checkpoints(tmp_path)[0]
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["message_hub"]["runtime_info"].pop("exact_resume")
    checkpoint["message_hub"]["resumed_keys"].pop("exact_resume")
    torch.save(checkpoint, path)
    work = tmp_path / "again"
    run(work, {**EPOCHS, "max_epochs": 5}, BY_EPOCH, resume=path)
    assert end(work)["meta"]["epoch"] == 5
    (log,) = work.rglob("*.log")
    assert "holds no random states" in log.read_text()


def test_resuming_runs_no_code_of_the_checkpoint(tmp_path):
    run(tmp_path, EPOCHS, BY_EPOCH)
    path, trace = run_checkpoints(tmp_path)[0], tmp_path / "ran"
    checkpoint = torch.load(path, weights_only=False)
    # mmengine runs this text as a config.
    checkpoint["meta"]["config"] = f"open({str(trace)!r}, 'w')"
    torch.save(checkpoint, path)
    run(tmp_path / "text", {**EPOCHS, "max_epochs": 5}, BY_EPOCH, resume=path)
    checkpoint["hook"] = re.compile  # any object that is no plain value
    torch.save(checkpoint, path)
    with pytest.raises(InputError, match="contains code or objects"):
        run(tmp_path / "object", {**EPOCHS, "max_epochs": 5}, BY_EPOCH, resume=path)
    assert not trace.exists()


def test_a_loop_of_another_library_is_left_as_it_is(tmp_path, monkeypatch):
    class Own(EpochBasedTrainLoop):
        """Counts its epochs where the test sees it."""

        def run_epoch(self):
            super().run_epoch()
            epochs.append(self.epoch)

    epochs = []
    monkeypatch.setitem(LOOPS.module_dict, "OwnLoop", Own)
    loop = {"type": "OwnLoop", "max_epochs": 2}
    run(tmp_path, loop, BY_EPOCH)
    assert epochs == [1, 2]
    run(tmp_path / "again", {**loop, "max_epochs": 3}, BY_EPOCH, resume=tmp_path / "epoch_2.pth")
    assert epochs == [1, 2, 3]


# ------------------------------------------------------------------------------- a changed plan

WARM = {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 7}
COSINE = {"type": "CosineAnnealingLR", "by_epoch": True, "eta_min": 0.01}
BY_STEP = {"type": "CosineAnnealingLR", "by_epoch": True, "convert_to_iter_based": True}
ADAM = {"type": "AdamW", "lr": 1.0}


def learning_rates(work) -> list[float]:
    """Of each iteration."""
    return end(work)["message_hub"]["log_scalars"]["train/lr"].data[0].tolist()


def told(work) -> str:
    return "".join(path.read_text() for path in work.rglob("*.log"))


def begin(work, loop, saving, iteration=13, **options):
    """Train until the power is cut; the newest checkpoint."""
    with pytest.raises(Power):
        run(work, loop, saving, hooks=[Cut(iteration=iteration)], **options)
    return run_checkpoints(work)[0]


SGD = {"type": "SGD", "lr": 1.0, "momentum": 0.9}
OTHER_SGD = {"type": "SGD", "lr": 0.3, "momentum": 0.5, "weight_decay": 0.01}


@pytest.mark.parametrize(
    ("saving", "schedule"), [(BY_EPOCH, [BY_STEP]), (BY_ITERATION, [WARM, COSINE])]
)
@pytest.mark.parametrize(("epochs", "optimizer"), [(7, SGD), (3, SGD), (4, OTHER_SGD)])
def test_a_changed_plan_is_followed_as_from_the_start(
    tmp_path, saving, schedule, epochs, optimizer
):
    loop, now = {**EPOCHS, "max_epochs": epochs}, dict(schedule=schedule, optimizer=optimizer)
    newest = begin(tmp_path, EPOCHS, saving, schedule=schedule)
    former = load_checkpoint(newest)["meta"]["iter"]
    run(tmp_path, loop, saving, resume=newest, **now)
    run(tmp_path / "whole", loop, saving, **now)
    resumed, whole = learning_rates(tmp_path), learning_rates(tmp_path / "whole")
    assert resumed[former:] == pytest.approx(whole[former:])
    assert len(resumed) == len(whole) == 5 * epochs
    assert resumed[: former - 1] != pytest.approx(whole[: former - 1])
    assert f"the learning rate is {whole[former]:.4g}, the checkpoint" in told(tmp_path)
    (group,) = end(tmp_path)["optimizer"]["param_groups"]
    assert all(group[key] == optimizer[key] for key in optimizer.keys() - {"type", "lr"})


def test_an_unchanged_plan_is_not_told(tmp_path):
    newest = begin(tmp_path, EPOCHS, BY_ITERATION, schedule=[WARM, COSINE])
    run(tmp_path, EPOCHS, BY_ITERATION, resume=newest, schedule=[WARM, COSINE])
    assert "another optimizer or schedule" not in told(tmp_path)
    assert "another config" not in told(tmp_path)


@pytest.mark.parametrize(("saving", "batch"), [(BY_EPOCH, 1), (BY_ITERATION, 5)])
def test_other_batches_leave_the_epochs_and_their_schedule_as_they_are(tmp_path, saving, batch):
    """Ten images: ten or two steps an epoch instead of five."""
    newest = begin(tmp_path, EPOCHS, saving, schedule=[BY_STEP])
    former = load_checkpoint(newest)["meta"]["iter"]
    run(tmp_path, EPOCHS, saving, resume=newest, schedule=[BY_STEP], batch=batch)
    run(tmp_path / "whole", EPOCHS, saving, schedule=[BY_STEP], batch=batch)
    resumed, whole = learning_rates(tmp_path)[former:], learning_rates(tmp_path / "whole")
    assert len(resumed) == len(whole) - former * 2 // batch
    assert resumed == pytest.approx(whole[-len(resumed) :])
    info = end(tmp_path)["message_hub"]["runtime_info"]
    assert info["max_iters"] == end(tmp_path)["meta"]["iter"] == former + len(resumed)
    assert "eta: -" not in told(tmp_path)
    assert f"1 × 2 images per step became 1 × {batch}" in told(tmp_path)


def test_a_run_by_iterations_is_planned_anew_too(tmp_path):
    newest = begin(tmp_path, ITERATIONS, BY_ITERATION)
    loop = {**ITERATIONS, "max_iters": 30}
    run(tmp_path, loop, BY_ITERATION, resume=newest)
    run(tmp_path / "whole", loop, BY_ITERATION)
    assert learning_rates(tmp_path)[12:] == pytest.approx(learning_rates(tmp_path / "whole")[12:])


def test_a_finished_run_says_so_and_ends_cleanly(tmp_path):
    run(tmp_path, EPOCHS, BY_EPOCH)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.pth")}
    newest = tmp_path / "epoch_4.pth"
    run(tmp_path, EPOCHS, BY_EPOCH, resume=newest)
    assert (
        f"{newest} is of a finished run, 4 of 4 epochs are trained: to train longer, set"
        in told(tmp_path)
    )
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.pth")} == before


@pytest.mark.parametrize(
    ("loop", "words"),
    [
        (EPOCHS, "for 4 epochs, more than the 3 of"),
        (ITERATIONS, "for 18 iters, more than the 3 of"),
    ],
)
def test_a_run_that_is_to_be_shorter_than_it_is_already_is_refused(tmp_path, loop, words):
    run(tmp_path, loop, BY_ITERATION)
    limit = {key: 3 if key.startswith("max") else value for key, value in loop.items()}
    with pytest.raises(InputError, match=words) as caught:
        run(tmp_path, limit, BY_ITERATION, resume=run_checkpoints(tmp_path)[0])
    assert "or resume an earlier checkpoint" in str(caught.value)


def test_the_state_of_another_optimizer_is_refused(tmp_path):
    newest = begin(tmp_path, EPOCHS, BY_EPOCH)
    with pytest.raises(InputError, match="was trained by another optimizer") as caught:
        run(tmp_path, EPOCHS, BY_EPOCH, resume=newest, optimizer=ADAM)
    assert f"load_from={newest}" in str(caught.value)
