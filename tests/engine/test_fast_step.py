"""What makes a step fast changes neither its losses nor what is logged, and waits for nothing."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from small_pairs import BATCH, Views, masker, model
from torch.profiler import ProfilerActivity, profile

from mmsalmask.checkpoint import backbone_state, load_checkpoint, save_backbone
from mmsalmask.config import load_config
from mmsalmask.data.demo import draw_demo_set
from mmsalmask.engine import ExactRunner
from mmsalmask.engine.launch import build_runner, fuse_optimizers

LOG_INTERVAL = 3
# Five iterations an epoch: one log line after the third, one at the epoch's end.
ITERATIONS = 5


class Profiler(Hook):
    """Counts what makes the host wait for a value, per iteration, hooks included."""

    priority = "HIGHEST"
    waits = frozenset({"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero"})

    def before_train(self, runner) -> None:
        self.counts = []

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.close()
        self.open = profile(activities=[ProfilerActivity.CPU])
        self.open.__enter__()

    def after_train(self, runner) -> None:
        self.close()

    def close(self) -> None:
        if getattr(self, "open", None) is None:
            return
        self.open.__exit__(None, None, None)
        events = self.open.key_averages()
        self.counts.append(sum(event.count for event in events if event.key in self.waits))
        self.open = None


def train(
    work: Path,
    runtime_info: str,
    hooks: list | None = None,
    epochs: int = 2,
    log_processor: dict | None = None,
) -> list[dict]:
    """The log lines of a run with high-pass masking and two hard negatives."""
    runner = ExactRunner(
        model(masker("HighPassNoise", hard_negatives=2)),
        work_dir=str(work),
        train_dataloader=dict(
            batch_size=BATCH,
            num_workers=0,
            sampler=dict(type="DefaultSampler", shuffle=True),
            collate_fn=dict(type="default_collate"),
            dataset=Views(),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01, momentum=0.9)),
        custom_hooks=hooks or [],
        log_processor=log_processor,
        default_hooks=dict(
            runtime_info=dict(type=runtime_info),
            logger=dict(type="LoggerHook", interval=LOG_INTERVAL),
            checkpoint=dict(type="CheckpointHook", interval=2, by_epoch=False),
        ),
        randomness=dict(seed=0),
        default_scope="mmpretrain",
        experiment_name=f"{work.name}_{runtime_info}",
    )
    runner.train()
    (log,) = work.glob("*/vis_data/scalars.json")
    return [json.loads(line) for line in log.read_text().splitlines()]


def losses_saved(checkpoint: Path) -> list[float]:
    hub = torch.load(checkpoint, weights_only=False)["message_hub"]
    return hub["log_scalars"]["train/loss"].data[0].tolist()


def test_deferred_logging_logs_and_saves_what_mmengine_does(tmp_path):
    """Windows, several values a step, and checkpoints between two log lines."""
    runs = {}
    for hook in ("RuntimeInfoHook", "mmsalmask.DeferredRuntimeInfoHook"):
        work = tmp_path / hook
        lines = train(work, hook)
        timeless = [
            {key: value for key, value in line.items() if "time" not in key} for line in lines
        ]
        saved = [losses_saved(work / f"iter_{n}.pth") for n in range(2, 2 * ITERATIONS + 1, 2)]
        runs[hook] = timeless, saved
    (lines, saved), deferred = runs.values()
    assert deferred == (lines, saved)
    assert [len(values) for values in saved] == [2, 4, 6, 8, 10]
    assert {"loss", "contrast_accuracy", "hard_accuracy"} <= lines[0].keys()


@pytest.mark.parametrize("window", [3, "global"])
def test_a_long_run_keeps_no_more_values_than_its_log_needs(tmp_path, monkeypatch, window):
    """mmengine keeps all, copies them at every step and saves them in every checkpoint."""
    monkeypatch.setattr("mmsalmask.engine.hooks.deferred_log._KEPT", 1)
    log = dict(
        window_size=4, custom_cfg=[dict(data_src="loss", method_name="max", window_size=window)]
    )
    lines, saved = {}, {}
    for hook in ("RuntimeInfoHook", "mmsalmask.DeferredRuntimeInfoHook"):
        work = tmp_path / hook
        lines[hook] = [line["loss"] for line in train(work, hook, log_processor=log)]
        saved[hook] = losses_saved(work / f"iter_{2 * ITERATIONS}.pth")
    every, kept = saved.values()
    assert kept == (every[-4:] if window == 3 else every)
    assert len(every) == 2 * ITERATIONS
    first, second = lines.values()
    assert first == second


def test_no_step_between_two_log_lines_waits_for_a_value(tmp_path):
    counts = {}
    for hook in ("RuntimeInfoHook", "mmsalmask.DeferredRuntimeInfoHook"):
        profiler = Profiler()
        train(tmp_path / hook, hook, [profiler], epochs=1)
        counts[hook] = profiler.counts
    log_lines = {LOG_INTERVAL - 1, ITERATIONS - 1}
    quiet = [n for n in range(ITERATIONS) if n not in log_lines]
    # Checkpoints fetch, too: iterations 2 and 4 save.
    saving = {1, 3}
    for n in quiet:
        assert counts["RuntimeInfoHook"][n] >= 3, "the profile would not show a wait"
        if n not in saving:
            assert counts["mmsalmask.DeferredRuntimeInfoHook"][n] == 0


# ------------------------------------------------------------------------------------- fast_step

DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo"
TINY = {
    "model.backbone.base_channels": 8,
    "model.backbone.stem_channels": 8,
    "model.neck.in_channels": 64,
    "model.neck.hid_channels": 8,
    "train_dataloader.batch_size": 8,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "model.data_preprocessor.augment.view.size": 32,
    "train_dataloader.dataset.pipeline.0.size": 40,
    "train_cfg.max_epochs": 1,
    "default_hooks.logger.interval": 1,
}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    draw_demo_set(root, images_per_class=12, classes=("disk", "bars"), size=40)
    return root / "train"


def fast_runner(work: Path, shapes: Path, recipe: str = "mocov2-salmask-blur", **options):
    queue = {} if recipe.startswith("simclr") else {"model.queue_len": 10}
    settings = {**TINY, **queue, "data_root": str(shapes), **options}
    config = load_config(str(DEMO / f"{recipe}_resnet18_demo.py"), settings)
    config.work_dir, config.experiment_name = str(work), work.name
    return build_runner(config)


def is_channels_last(weight: torch.Tensor) -> bool:
    return weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("recipe", ["mocov2-salmask-highpass", "simclr-salmask-mean"])
def test_a_fast_step_gives_the_losses_of_a_plain_one(tmp_path, shapes, recipe):
    """Over three steps, so through the optimizer, the momentum encoder and the queue.

    Rounding grows by a factor of ten or so a step in a net this small.
    """
    losses = {}
    for fast in (True, False):
        work = tmp_path / str(fast)
        runner = fast_runner(work, shapes, recipe, fast_step=fast)
        runner.train()
        conv = runner.model.backbone.layer2[0].conv2.weight
        assert is_channels_last(conv) == fast
        losses[fast] = runner.message_hub.get_scalar("train/loss").data[0]
    assert len(losses[True]) == 3
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)


def test_a_fast_step_fuses_the_optimizer_unless_the_config_says_otherwise(tmp_path, shapes):
    found = {}
    for name, options in {
        "fast": {},
        "plain": {"fast_step": False},
        "said": {"optim_wrapper.optimizer.fused": False},
    }.items():
        runner = fast_runner(tmp_path / name, shapes, **options)
        runner.train()
        found[name] = runner.optim_wrapper.optimizer.defaults["fused"]
    assert found == {"fast": True, "plain": None, "said": False}


def test_mmengines_own_loss_scaling_gets_no_fused_optimizer():
    """Torch leaves the momentum of a fused SGD to chance if its first step is skipped."""
    for wrapper, fused in (("AmpOptimWrapper", None), ("mmsalmask.Float16OptimWrapper", True)):
        config = Config({"optim_wrapper": {"type": wrapper, "optimizer": {"type": "SGD"}}})
        fuse_optimizers(config)
        assert config.optim_wrapper.optimizer.get("fused") is fused


@pytest.mark.parametrize("way", ["foreach", "differentiable"])
def test_another_way_that_the_config_asks_for_is_kept(way):
    """Torch refuses two of them."""
    config = Config({"optim_wrapper": {"optimizer": {"type": "SGD", way: True}}})
    fuse_optimizers(config)
    assert "fused" not in config.optim_wrapper.optimizer


def test_both_optimizers_of_adios_are_fused(tmp_path, shapes):
    runner = fast_runner(
        tmp_path / "adios",
        shapes,
        "adios-mocov2",
        **{"model.mask_net.size": 32, "model.mask_net.channels": 8},
    )
    runner.train()
    wrappers = dict(runner.optim_wrapper.items())
    assert {name: w.optimizer.defaults["fused"] for name, w in wrappers.items()} == {
        "encoder": True,
        "mask_net": True,
    }


def test_a_backbone_of_a_fast_run_is_written_as_any_other(tmp_path, shapes):
    runner = fast_runner(tmp_path / "run", shapes)
    runner.train()
    checkpoint = load_checkpoint(str(tmp_path / "run" / "epoch_1.pth"))
    for suffix in (".pth", ".safetensors"):
        save_backbone(backbone_state(checkpoint), tmp_path / f"out{suffix}", "openmmlab", {})
    weights = load_checkpoint(str(tmp_path / "out.pth"))["state_dict"]
    assert weights["layer2.0.conv2.weight"].is_contiguous()
    assert torch.equal(weights["conv1.weight"], runner.model.backbone.conv1.weight)
