"""What the options of tools/train.py make of a config, and what is refused before building."""

import io
import os
from pathlib import Path

import pytest
import torch
from mmengine import Config
from mmpretrain.models import ResNet

from mmsalmask.checkpoint import save_backbone
from mmsalmask.engine.launch import (
    build_runner,
    restarted,
    set_resume,
    set_work_dir,
    use_amp,
)
from mmsalmask.engine.processes import distribute_over_cpus
from mmsalmask.engine.resume.safe_checkpoint import AtomicLocalBackend, why_damaged
from mmsalmask.errors import InputError


def config(**entries) -> Config:
    settings = dict(optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)), **entries)
    return Config(settings, cfg_text=" ", filename="/somewhere/my_recipe.py")


def refusal(function, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("argument", "own", "expected"),
    [
        ("given", "own", "given"),
        (None, "own", "own"),
        (None, None, str(Path("work_dirs") / "my_recipe")),
    ],
)
def test_the_work_directory_is_the_arguments_the_configs_or_the_recipes(argument, own, expected):
    cfg = config(work_dir=own)
    set_work_dir(cfg, argument)
    assert cfg.work_dir == expected


def test_a_work_directory_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    told = refusal(build_runner, config(work_dir=str(tmp_path / "file" / "work")))
    assert "cannot be written (Not a directory): choose --work-dir" in told
    # Permissions do not bind root, whom tests may run as.
    monkeypatch.setattr("mmsalmask.engine.launch.os.access", lambda path, mode: False)
    told = refusal(build_runner, config(work_dir=str(tmp_path)))
    assert "cannot be written (no permission" in told


def test_float16_scales_the_loss_and_bfloat16_does_not():
    cfg = config()
    use_amp(cfg, "float16")
    wrapper = cfg.optim_wrapper
    assert wrapper.type == "mmsalmask.Float16OptimWrapper"
    cfg = config()
    use_amp(cfg, "bfloat16")
    wrapper = cfg.optim_wrapper
    assert wrapper.type == "mmsalmask.BFloat16OptimWrapper"
    assert set(wrapper) == {"type", "optimizer"}


def test_a_loss_scale_of_the_config_is_kept():
    cfg = config()
    cfg.optim_wrapper.update(type="AmpOptimWrapper", loss_scale=512.0, dtype="float16")
    use_amp(cfg, "float16")
    assert (cfg.optim_wrapper.loss_scale, "dtype" in cfg.optim_wrapper) == (512.0, False)


def test_another_optimizer_wrapper_is_not_replaced():
    cfg = config()
    cfg.optim_wrapper.type = "ApexOptimWrapper"
    assert "but the config has ApexOptimWrapper" in refusal(use_amp, cfg, "bfloat16")


def save(path: Path, second: int, **meta) -> None:
    """A checkpoint as the hook writes it, at this second of the clock."""
    content = io.BytesIO()
    torch.save({"meta": {"seed": 7, **meta}, "state_dict": {"w": torch.ones(50)}}, content)
    AtomicLocalBackend().put(content.getvalue(), path)
    os.utime(path, (second, second))


def resumed_from(folder: Path, wanted: str = "auto", **entries) -> Config:
    cfg = config(work_dir=str(folder), **entries)
    set_resume(cfg, wanted)
    assert cfg.resume
    return cfg


def test_resuming_takes_the_checkpoint_written_last_or_the_given_one(tmp_path):
    for name, second in (("epoch_10.pth", 1), ("epoch_9.pth", 2), ("iter_12.pth", 3)):
        save(tmp_path / name, second)
        assert resumed_from(tmp_path).load_from == str(tmp_path / name)
    save(tmp_path / "best_score_epoch_9.pth", 4)  # without an optimizer
    assert resumed_from(tmp_path).load_from == str(tmp_path / "iter_12.pth")
    given = str(tmp_path / "epoch_10.pth")
    assert resumed_from(tmp_path, given).load_from == given


def test_checkpoints_of_an_out_dir_are_found_too(tmp_path):
    (tmp_path / "work").mkdir()
    save(tmp_path / "out" / "work" / "epoch_2.pth", 1)
    hooks = dict(checkpoint=dict(out_dir=str(tmp_path / "out")))
    cfg = resumed_from(tmp_path / "work", default_hooks=hooks)
    assert cfg.load_from == str(tmp_path / "out" / "work" / "epoch_2.pth")


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty])
def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path, capsys, damage):
    for second in (1, 2, 3):
        save(tmp_path / f"epoch_{second}.pth", second)
    damaged = tmp_path / "epoch_3.pth"
    damage(damaged)
    os.utime(damaged, (3, 3))
    assert resumed_from(tmp_path).load_from == str(tmp_path / "epoch_2.pth")
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: --resume: {damaged} is passed over, ")
    told = refusal(set_resume, config(work_dir=str(tmp_path)), str(damaged))
    assert told.startswith(f"--resume: {damaged} is damaged, ")
    for second in (1, 2):
        damage(tmp_path / f"epoch_{second}.pth")
    assert "all checkpoints in" in refusal(set_resume, config(work_dir=str(tmp_path)), "auto")


def test_a_checkpoint_without_a_digest_is_checked_by_its_archive(tmp_path):
    path = tmp_path / "epoch_1.pth"
    torch.save({"state_dict": {"w": torch.ones(1000)}}, path)
    assert why_damaged(path) is None
    content = bytearray(path.read_bytes())
    content[content.index(b"\x00\x00\x80\x3f" * 10) + 8] ^= 1
    path.write_bytes(content)
    assert "is damaged" in why_damaged(path)


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux counts what is read")
def test_looking_for_a_checkpoint_reads_it_once(tmp_path):
    content = io.BytesIO()
    torch.save({"state_dict": {"w": torch.rand(1 << 20)}, "meta": {"seed": 3}}, content)
    AtomicLocalBackend().put(content.getvalue(), tmp_path / "epoch_1.pth")

    def bytes_read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = bytes_read()
    assert resumed_from(tmp_path).randomness.seed == 3
    size = (tmp_path / "epoch_1.pth").stat().st_size
    assert size <= bytes_read() - before < 1.2 * size  # for its digest


def test_resuming_where_nothing_was_saved_is_refused(tmp_path):
    cfg = config(work_dir=str(tmp_path))
    assert "there is no checkpoint in" in refusal(set_resume, cfg, "auto")
    assert "does not exist" in refusal(set_resume, cfg, str(tmp_path / "epoch_2.pth"))
    assert not cfg.get("resume")


def test_the_seed_of_the_checkpoint_goes_on(tmp_path, capsys):
    save(tmp_path / "epoch_1.pth", 1)
    for seed in (None, 7):
        assert resumed_from(tmp_path, randomness=dict(seed=seed)).randomness.seed == 7
    assert resumed_from(tmp_path).randomness.seed == 7
    assert capsys.readouterr().err == ""
    assert resumed_from(tmp_path, randomness=dict(seed=1)).randomness.seed == 7
    assert "goes on with seed 7" in capsys.readouterr().err


class Malicious:
    """Leaves a file behind when it is unpickled by a loader that runs code."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    trace, path = tmp_path / "ran", tmp_path / "epoch_1.pth"
    torch.save({"meta": {}, "state_dict": {}, "hook": Malicious(trace)}, path)
    assert "contains code" in refusal(set_resume, config(work_dir=str(tmp_path)), "auto")
    assert not trace.exists()
    torch.load(path, weights_only=False)  # what mmengine does
    assert trace.exists()


def test_a_job_knows_that_it_was_started_again(monkeypatch):
    for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"):
        for count, expected in ((None, False), ("", False), ("0", False), ("2", True)):
            monkeypatch.delenv(name, raising=False)
            if count is not None:
                monkeypatch.setenv(name, count)
            assert restarted() == expected
        monkeypatch.delenv(name)


@pytest.mark.parametrize("momentum", [5, 1, -0.1, float("nan"), "much"])
def test_a_momentum_that_lets_weights_grow_without_limit_is_refused(momentum):
    cfg = config()
    cfg.optim_wrapper.optimizer.momentum = momentum
    assert refusal(build_runner, cfg).startswith("optim_wrapper.optimizer.momentum must be")
    cfg.optim_wrapper.optimizer.momentum = 0.9
    cfg.optim_wrapper.constructor = "mmsalmask.algorithms.adios.ADIOSOptimWrapperConstructor"
    cfg.optim_wrapper.paramwise_cfg = dict(mask_net=dict(optimizer=dict(momentum=momentum)))
    told = refusal(build_runner, cfg)
    assert told.startswith("optim_wrapper.paramwise_cfg.mask_net.optimizer.momentum must be")


def test_a_learning_rate_of_zero_is_warned_of(tmp_path):
    start = tmp_path / "backbone.pth"
    save_backbone(ResNet(18, stem_channels=8, base_channels=8).state_dict(), start, "openmmlab", {})
    found = {}
    for lr in (0, 0.1):
        cfg = downstream(start, tmp_path / str(lr), [], [])
        cfg.optim_wrapper.optimizer.lr = lr
        build_runner(cfg)
        (log,) = (tmp_path / str(lr)).rglob("*.log")
        found[lr] = "optim_wrapper.optimizer.lr is 0: nothing will be learned" in log.read_text()
    assert found == {0: True, 0.1: False}


def test_workers_cannot_persist_where_there_are_none():
    cfg = config(val_dataloader=dict(batch_size=1, num_workers=0, persistent_workers=True))
    assert refusal(build_runner, cfg).startswith("val_dataloader.persistent_workers needs workers")


def test_an_optimizer_without_a_loop_and_images_is_refused(tmp_path):
    told = refusal(build_runner, config(work_dir=str(tmp_path)))
    assert told.startswith("train_dataloader is missing beside optim_wrapper: give all of")


@pytest.mark.parametrize("launcher", ["slurm", "mpi"])
def test_without_gpus_only_torchrun_joins_processes(launcher):
    assert "only --launcher pytorch" in refusal(build_runner, config(launcher=launcher))


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        (dict(model=dict(type="ToyModel", norm_cfg=dict(type="SyncBN"))), "model.norm_cfg.type"),
        (dict(model=dict(type="ToyModel"), sync_bn="torch"), "sync_bn"),
    ],
)
def test_without_gpus_no_batch_norm_joins_processes(entries, named):
    told = refusal(distribute_over_cpus, config(launcher="pytorch", **entries))
    assert told.startswith(f"{named} joins the BatchNorm of all processes")


# ------------------------------------------------------------------------- what a model starts from


def downstream(start: Path, work: Path, train: list, test: list) -> Config:
    """A small classifier whose backbone starts from a file, and its two pipelines."""
    loaders = {
        f"{split}_dataloader": dict(
            batch_size=1,
            sampler=dict(type="DefaultSampler"),
            dataset=dict(type="mmsalmask.ImageFolder", data_root="photos", pipeline=pipeline),
        )
        for split, pipeline in (("train", train), ("test", test))
    }
    cfg = config(
        default_scope="mmpretrain",
        model=dict(
            type="ImageClassifier",
            backbone=dict(
                type="ResNet",
                depth=18,
                stem_channels=8,
                base_channels=8,
                init_cfg=dict(type="Pretrained", checkpoint=str(start)),
            ),
        ),
        train_cfg=dict(max_epochs=1),
        test_cfg=dict(),
        test_evaluator=dict(type="Accuracy"),
        work_dir=str(work),
        experiment_name=str(work),
        **loaders,
    )
    return cfg


@pytest.mark.parametrize("learned", [True, False])
def test_a_downstream_config_without_the_backbones_filter_is_warned_of(tmp_path, caplog, learned):
    start, lines = tmp_path / "backbone.pth", []
    state = ResNet(18, stem_channels=8, base_channels=8).state_dict()
    save_backbone(state, start, "openmmlab", {"high_pass": str(learned).lower()})
    filtered = [dict(type="mmsalmask.HighPassFilter")]
    for name, train, test in (
        ("both", filtered, filtered),
        ("train", filtered, []),
        ("none", [], []),
    ):
        build_runner(downstream(start, tmp_path / name, train, test))
        (log,) = (tmp_path / name).rglob("*.log")
        lines.append([line for line in log.read_text().splitlines() if " LEARNED FROM " in line])
    assert [len(found) for found in lines] == ([0, 1, 1] if learned else [1, 1, 0])
    assert ("of test_dataloader are not" if learned else "of train_dataloader are") in lines[1][0]
    assert "those of train_dataloader, test_dataloader are " in lines[2 if learned else 0][0]


def test_a_file_to_start_from_is_read_before_mmengine_could_run_its_code(tmp_path):
    def start(name):
        return refusal(build_runner, downstream(tmp_path / name, tmp_path / "run", [], []))

    assert start("backbone.pth").startswith("there is no checkpoint")
    torch.save({"state_dict": {}, "hook": print}, tmp_path / "unsafe.pth")
    assert "contains code or objects" in start("unsafe.pth")


def test_a_model_starts_from_a_backbone_of_its_own_architecture_or_not_at_all(tmp_path):
    start = tmp_path / "backbone.pth"
    for depth, fits in ((18, True), (34, False)):
        state = ResNet(depth, stem_channels=8, base_channels=8).state_dict()
        save_backbone(state, start, "openmmlab", {})
        cfg = downstream(start, tmp_path / str(depth), [], [])
        if fits:
            build_runner(cfg)
        else:
            assert "of another architecture than this ResNet" in refusal(build_runner, cfg)
