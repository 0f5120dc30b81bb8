"""What the options of tools/train.py make of a config, and what is refused before building."""

from pathlib import Path

import pytest
import torch
from mmengine import Config
from mmpretrain.models import ResNet

from mmsalmask.checkpoint import save_backbone
from mmsalmask.engine.launch import build_runner, set_resume, set_work_dir, use_amp
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


def test_float16_scales_the_loss_and_bfloat16_does_not():
    cfg = config()
    use_amp(cfg, "float16")
    wrapper = cfg.optim_wrapper
    assert (wrapper.type, wrapper.dtype, wrapper.loss_scale) == (
        "AmpOptimWrapper",
        "float16",
        "dynamic",
    )
    use_amp(cfg, "bfloat16")
    assert wrapper.type == "mmsalmask.BFloat16OptimWrapper"
    assert set(wrapper) == {"type", "optimizer"}


def test_a_loss_scale_of_the_config_is_kept():
    cfg = config()
    cfg.optim_wrapper.update(type="AmpOptimWrapper", loss_scale=512.0)
    use_amp(cfg, "float16")
    assert cfg.optim_wrapper.loss_scale == 512.0


def test_another_optimizer_wrapper_is_not_replaced():
    cfg = config()
    cfg.optim_wrapper.type = "ApexOptimWrapper"
    assert "but the config has ApexOptimWrapper" in refusal(use_amp, cfg, "bfloat16")


def test_resuming_takes_the_newest_checkpoint_or_the_given_one(tmp_path):
    for name in ("epoch_1.pth", "epoch_2.pth"):
        (tmp_path / name).touch()
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "epoch_2.pth"))
    for wanted, name in (("auto", "epoch_2.pth"), (str(tmp_path / "epoch_1.pth"), "epoch_1.pth")):
        cfg = config(work_dir=str(tmp_path))
        set_resume(cfg, wanted)
        assert (cfg.resume, cfg.load_from) == (True, str(tmp_path / name))


def test_resuming_after_the_last_checkpoint_was_deleted_is_refused(tmp_path):
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "epoch_2.pth"))
    cfg = config(work_dir=str(tmp_path))
    assert refusal(set_resume, cfg, "auto").endswith("epoch_2.pth does not exist")
    assert not cfg.get("resume")


def test_workers_cannot_persist_where_there_are_none():
    cfg = config(val_dataloader=dict(batch_size=1, num_workers=0, persistent_workers=True))
    assert refusal(build_runner, cfg).startswith("val_dataloader.persistent_workers needs workers")


@pytest.mark.skipif(torch.cuda.is_available(), reason="GPUs can be joined by any launcher")
@pytest.mark.parametrize("launcher", ["slurm", "mpi"])
def test_without_gpus_only_torchrun_joins_processes(launcher):
    assert "only --launcher pytorch" in refusal(build_runner, config(launcher=launcher))


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
