"""What a user reads when a config or an option is mistyped, and that correct ones pass."""

import argparse
import errno
import importlib
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import OPTIMIZERS
from mmpretrain.models.selfsup import MoCo

from mmsalmask.cli import config_arguments, report_errors
from mmsalmask.config import check_config, check_together, load_config
from mmsalmask.config.signatures import parameters_of
from mmsalmask.errors import InputError
from mmsalmask.provenance import write_result
from mmsalmask.registry import MODELS

SMALL = """
default_scope = 'mmpretrain'
data_root = 'data/photos'
train_pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=64),
                  dict(type='PackInputs')]
model = dict(type='MoCo', queue_len=16, feat_dim=8, momentum=0.01,
    backbone=dict(type='ResNet', depth=18, norm_cfg=dict(type='BN', requires_grad=True)),
    neck=dict(type='MoCoV2Neck', in_channels=512, hid_channels=8, out_channels=8),
    head=dict(type='ContrastiveHead', loss=dict(type='CrossEntropyLoss'), temperature=0.2))
train_dataloader = dict(batch_size=4, num_workers=0,
    dataset=dict(type='RepeatDataset', times=2, dataset=dict(type='CustomDataset',
        data_root=data_root, data_prefix='train', pipeline=train_pipeline)),
    sampler=dict(type='DefaultSampler', shuffle=True), collate_fn=dict(type='default_collate'))
val_dataloader = dict(batch_size=4, num_workers=0,
    dataset=dict(type='CustomDataset', data_root=data_root, pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False))
val_evaluator = [dict(type='Accuracy', topk=(1, ))]
val_cfg = dict()
train_cfg = dict(by_epoch=True, max_epochs=2)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.03),
    clip_grad=dict(type='norm', max_norm=35), paramwise_cfg=dict(norm_decay_mult=0.))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=2, convert_to_iter_based=True)]
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))
custom_hooks = [dict(type='EMAHook', momentum=0.1, priority='LOW')]
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork'))
randomness = dict(seed=0)
my_own_variable = dict(type='whatever', I_like=1)
"""


@pytest.fixture
def small(tmp_path):
    file = tmp_path / "small.py"
    file.write_text(SMALL)
    return str(file)


@pytest.fixture
def toy_model():
    @MODELS.register_module()
    class MaskedToyMoCo(MoCo):
        def __init__(self, strategy, **kwargs):
            super().__init__(**kwargs)

    yield MaskedToyMoCo
    MODELS.module_dict.pop("MaskedToyMoCo")


def error_of(function, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments)
    return str(caught.value)


def upstream(name: str) -> str:
    library, _, path = name.partition("::")
    return str(Path(find_spec(library).origin).parent / ".mim" / "configs" / path)


# ---------------------------------------------------------------------------------------- reading


def test_a_missing_config_is_named_beside_the_nearest_of_its_folder(small, tmp_path):
    wanted = tmp_path / "smal.py"
    assert error_of(load_config, str(wanted)) == (
        f"config '{wanted}' is not there: did you mean '{small}'?"
    )


def test_a_missing_config_is_looked_for_under_configs(tmp_path, monkeypatch):
    (tmp_path / "configs" / "moco").mkdir(parents=True)
    (tmp_path / "configs" / "moco" / "moco_blur.py").write_text("a = 1")
    monkeypatch.chdir(tmp_path)
    assert "did you mean 'configs/moco/moco_blur.py'?" in error_of(load_config, "moc/moco_blr.py")


def test_a_config_of_this_package_is_named_by_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "demo/mocov2-salmask-mean_resnet18_demo.py"
    there = Path(__file__).resolve().parents[1] / "configs" / name
    named, given = load_config(f"mmsalmask::{name}"), load_config(str(there))
    assert named.to_dict() == given.to_dict()
    wrong = name.replace("mean", "maen")
    assert error_of(load_config, f"mmsalmask::{wrong}").startswith(
        f"config 'mmsalmask::{wrong}' is not there: did you mean 'mmsalmask::{name}'"
    )
    assert f"did you mean 'mmsalmask::{name}'" in error_of(load_config, wrong)


def test_a_folder_is_no_config(tmp_path):
    assert "is a folder, not a config file" in error_of(load_config, str(tmp_path))


def test_a_syntax_error_names_file_and_line_even_in_a_base(tmp_path):
    (tmp_path / "base.py").write_text("a = 1\nb = (\n")
    (tmp_path / "child.py").write_text("_base_ = './base.py'\n")
    for name in ("base", "child"):
        message = error_of(load_config, str(tmp_path / f"{name}.py"))
        assert message.startswith("syntax error in config '")
        assert "base.py', line 2: '(' was never closed" in message


def test_a_missing_base_is_named_with_the_file_that_asks_for_it(tmp_path, small):
    (tmp_path / "middle.py").write_text("_base_ = ['./smal.py']\n")
    (tmp_path / "child.py").write_text("_base_ = ['./middle.py']\n")
    message = error_of(load_config, str(tmp_path / "child.py"))
    assert "middle.py' names a _base_ that does not exist" in message
    assert f": did you mean '{small}'" in message


def test_a_missing_base_of_this_package_is_named_with_the_nearest(tmp_path):
    child = tmp_path / "child.py"
    child.write_text("_base_ = 'mmsalmask::demo/mocov2-salmask-meen_resnet18_demo.py'\n")
    told = error_of(load_config, str(child))
    assert told.startswith(f"config '{child}' names a _base_ that does not exist")
    assert "did you mean 'mmsalmask::demo/mocov2-salmask-mean_resnet18_demo.py'" in told


def test_an_error_inside_a_config_is_told_in_one_sentence(tmp_path):
    (tmp_path / "bad.py").write_text("a = undefined + 1\n")
    message = error_of(load_config, str(tmp_path / "bad.py"))
    assert "bad.py' cannot be read: NameError: name 'undefined' is not defined" in message


# ---------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("data_rot", "no config key 'data_rot': did you mean 'data_root'?"),
        (
            "model.backbone.dept",
            "no config key 'model.backbone.dept': did you mean 'model.backbone.depth'?",
        ),
        (
            "model.backbone.frozen_stage",
            "no config key 'model.backbone.frozen_stage': "
            "did you mean 'model.backbone.frozen_stages'?",
        ),
        (
            "modle.backbone.depth",
            "no config key 'modle.backbone.depth': did you mean 'model'?",
        ),
        ("max_epochs", "no config key 'max_epochs': did you mean 'train_cfg.max_epochs'?"),
        ("resum", "no config key 'resum': did you mean 'resume'?"),
        (
            "train_dataloader.batchsize",
            "no config key 'train_dataloader.batchsize': "
            "did you mean 'train_dataloader.batch_size'?",
        ),
        (
            "train_pipeline.scale",
            "no config key 'train_pipeline.scale': train_pipeline is a list, "
            "count into it: train_pipeline.0",
        ),
        (
            "train_pipeline.7.scale",
            "no config key 'train_pipeline.7.scale': train_pipeline has 3 entries, counted from 0",
        ),
        (
            "train_cfg.max_epochs.x",
            "no config key 'train_cfg.max_epochs.x': train_cfg.max_epochs is 2, "
            "which holds no keys",
        ),
        (
            "optim_wrapper.optimizer.learning_rate",
            "no config key 'optim_wrapper.optimizer.learning_rate': the keys of "
            "optim_wrapper.optimizer are dampening, ",
        ),
    ],
)
def test_a_mistyped_option_is_refused_with_the_nearest_key(small, option, sentence):
    assert error_of(load_config, small, {option: 1}).startswith(sentence)


def test_valid_options_are_merged_and_nothing_else_is_touched(small):
    options = {
        "model.queue_len": 32,
        "train_dataloader.dataset.dataset.pipeline.1.scale": 96,
        "my_own_variable.I_like": 2,
    }
    cfg = load_config(small, options)
    plain = Config.fromfile(small)
    plain.merge_from_dict(dict(options))
    assert cfg.to_dict() == plain.to_dict()
    assert cfg.train_dataloader.dataset.dataset.pipeline[1].scale == 96
    assert load_config(small).to_dict() == Config.fromfile(small).to_dict()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("model.backbone.frozen_stages", 1),  # of ResNet
        ("model.backbone.init_cfg.type", "Pretrained"),  # of its base class
        ("train_dataloader.dataset.dataset.metainfo", None),
        ("val_dataloader.dataset.indices", 10),  # of BaseDataset, through **kwargs
        ("train_dataloader.persistent_workers", False),
        ("train_dataloader.num_batch_per_epoch", 3),
        ("work_dir", "somewhere"),
        ("load_from", "x.pth"),
        ("randomness.deterministic", True),
        ("optim_wrapper.accumulative_counts", 2),
        ("optim_wrapper.paramwise_cfg.bias_decay_mult", 0.0),
        ("default_hooks.checkpoint.max_keep_ckpts", 2),
        ("train_cfg.val_interval", 2),
        ("env_cfg.dist_cfg.backend", "gloo"),
        ("model_wrapper_cfg.find_unused_parameters", True),
    ],
)
def test_an_option_may_add_a_key_that_its_receiver_accepts(small, option, value):
    cfg = load_config(small, {option: value})
    assert Config(cfg.to_dict()).get(option.split(".")[0]) is not None
    entry = cfg
    for part in option.split("."):
        entry = entry[part]
    assert entry == value
    check_config(load_config(small, {option: value}))


def test_a_new_type_decides_which_keys_may_stand_beside_it(small):
    options = {"optim_wrapper.optimizer.betas": [0.9, 0.99]}
    assert "no config key 'optim_wrapper.optimizer.betas'" in error_of(load_config, small, options)
    cfg = load_config(small, {**options, "optim_wrapper.optimizer.type": "AdamW"})
    check_config(cfg)
    assert cfg.optim_wrapper.optimizer.betas == [0.9, 0.99]


def test_a_new_type_decides_which_keys_may_stand_below_it(small):
    """In whatever order the options are given."""
    options = {"model.neck.predictor.type": "NonLinearNeck", "model.neck.type": "LatentPredictHead"}
    assert "predictor" in error_of(load_config, small, dict(list(options.items())[:1]))
    for order in (options, dict(reversed(options.items()))):
        assert load_config(small, order).model.neck.predictor.type == "NonLinearNeck"


@pytest.mark.parametrize("turned", [False, True])
def test_a_part_is_deleted_before_another_takes_its_place(small, turned):
    options = {
        "optim_wrapper.optimizer._delete_": True,
        "optim_wrapper.optimizer.type": "AdamW",
        "optim_wrapper.optimizer.lr": 1e-3,
    }
    cfg = load_config(small, dict(reversed(options.items())) if turned else options)
    assert cfg.optim_wrapper.optimizer == dict(type="AdamW", lr=1e-3)
    check_config(cfg)


@pytest.mark.parametrize("value", ["dict(type='GN')", "{'type': 'GN'}", ["dict(type='EMAHook')"]])
def test_an_option_is_no_code_of_a_dict(small, value):
    message = error_of(load_config, small, {"custom_hooks": value})
    assert message.startswith("'custom_hooks' is given a dict as text")
    load_config(small, {"load_from": "{}.pth"})


def test_an_entry_of_a_list_is_not_replaced(small):
    key = "train_dataloader.dataset.dataset.pipeline.0"
    message = error_of(load_config, small, {key: None})
    assert message.startswith(f"'{key}' would replace an entry of a list")
    given = load_config(small, {key: dict(color_type="grayscale")})
    assert given.train_dataloader.dataset.dataset.pipeline[0].color_type == "grayscale"


def test_options_inside_one_another_contradict(small):
    message = error_of(load_config, small, {"model.backbone": 1, "model.backbone.depth": 18})
    assert "'model.backbone' and 'model.backbone.depth' contradict each other" in message


def test_data_root_reaches_every_entry_that_held_it(small):
    cfg = load_config(small, {"data_root": "/photos"})
    assert cfg.data_root == "/photos"
    assert cfg.train_dataloader.dataset.dataset.data_root == "/photos"
    assert cfg.val_dataloader.dataset.data_root == "/photos"
    assert cfg.train_dataloader.dataset.dataset.data_prefix == "train"
    own = {"data_root": "/photos", "val_dataloader.dataset.data_root": "/other"}
    cfg = load_config(small, own)
    assert cfg.val_dataloader.dataset.data_root == "/other"
    assert cfg.train_dataloader.dataset.dataset.data_root == "/photos"


def test_an_empty_data_root_reaches_only_entries_of_that_name(tmp_path):
    file = tmp_path / "c.py"
    file.write_text("data_root = ''\nds = dict(data_root='', ann_file='')\n")
    cfg = load_config(str(file), {"data_root": "/photos"})
    assert cfg.ds.to_dict() == {"data_root": "/photos", "ann_file": ""}


# --------------------------------------------------------------------------------------- checking


@pytest.mark.parametrize(
    ("correct", "wrong", "sentence"),
    [
        ("optim_wrapper =", "optim_wraper =", "no config key 'optim_wraper': did you mean "),
        ("train_dataloader =", "train_dataloder =", "no config key 'train_dataloder': did you "),
        ("default_hooks =", "default_hook =", "no config key 'default_hook': did you mean "),
        (
            "checkpoint=",
            "chekpoint=",
            "no config key 'default_hooks.chekpoint': did you mean 'default_hooks.checkpoint'?",
        ),
        (
            "dict(type='CheckpointHook', interval=1)",
            "dict(interval=1)",
            "default_hooks.checkpoint has no 'type': write type='CheckpointHook'",
        ),
        (
            "'MoCo'",
            "'MoCO2'",
            "model: 'MoCO2' is not a registered model: did you mean 'MoCo'?",
        ),
        ("'ResNet'", "'resnet'", "model.backbone: 'resnet' is not a registered model: did you "),
        ("'MoCo'", "'mmpretrian.MoCo'", "model: 'mmpretrian.MoCo' is not a registered model: did "),
        ("'mmpretrain'", "'mmpretrian'", "default_scope: no library is called 'mmpretrian': "),
        (
            "'CrossEntropyLoss'",
            "'CrossEntropyLos'",
            "model.head.loss: 'CrossEntropyLos' is not a registered part: "
            "did you mean 'CrossEntropyLoss'?",
        ),
        ("queue_len", "que_len", "model: MoCo takes no 'que_len': did you mean 'queue_len'?"),
        (
            "depth=",
            "deph=",
            "model.backbone: ResNet takes no 'deph': did you mean 'depth'?",
        ),
        (
            "requires_grad",
            "require_gradient",
            "model.backbone.norm_cfg: BatchNorm2d takes no 'require_gradient': "
            "did you mean 'requires_grad'?",
        ),
        (
            "data_prefix",
            "data_prefx",
            "train_dataloader.dataset.dataset: CustomDataset takes no 'data_prefx': "
            "did you mean 'data_prefix'?",
        ),
        (
            "'PackInputs'",
            "'PackInput'",
            "train_dataloader.dataset.dataset.pipeline.2: 'PackInput' is not a registered "
            "transform: did you mean 'PackInputs'?",
        ),
        ("num_workers", "num_worker", "train_dataloader: a dataloader takes no 'num_worker': did"),
        ("max_epochs", "max_epoch", "train_cfg: EpochBasedTrainLoop takes no 'max_epoch': did yo"),
        ("topk", "top_k", "val_evaluator.0: Accuracy takes no 'top_k': did you mean 'topk'?"),
        ("'SGD', lr", "'SGD', lrr", "optim_wrapper.optimizer: SGD takes no 'lrr': did you mean"),
        ("max_norm", "maxnorm", "optim_wrapper.clip_grad: clip_grad_norm_ takes no 'maxnorm': di"),
        (
            "norm_decay_mult",
            "norm_decay_mul",
            "optim_wrapper.paramwise_cfg: paramwise_cfg takes no 'norm_decay_mul': did you mean",
        ),
        ("T_max", "Tmax", "param_scheduler.0: CosineAnnealingLR takes no 'Tmax': did you mean 'T"),
        ("'EMAHook'", "'EmaHok'", "custom_hooks.0: 'EmaHok' is not a registered hook: did you me"),
        ("mp_start_method", "mp_start", "env_cfg.mp_cfg: set_multi_processing takes no 'mp_star"),
        ("seed=0", "sed=0", "randomness: set_randomness takes no 'sed': did you mean 'seed'?"),
        ("'default_collate'", "'default_colate'", "train_dataloader.collate_fn: 'default_colate'"),
    ],
)
def test_a_mistyped_config_is_refused_with_the_nearest_name(tmp_path, correct, wrong, sentence):
    assert SMALL.count(correct) >= 1
    file = tmp_path / "wrong.py"
    file.write_text(SMALL.replace(correct, wrong))
    assert error_of(check_config, load_config(str(file))).startswith(sentence)


def test_a_part_of_this_project_is_found_by_its_prefix_and_suggested_with_it(small, toy_model):
    check_config(load_config(small, {"model.type": "mmsalmask.MaskedToyMoCo", "model.strategy": 1}))
    for wrong in ("mmsalmask.MaskdToyMoCo", "MaskedToyMoCo", "mmpretrain.MaskedToyMoCo"):
        assert error_of(load_config, small, {"model.type": wrong, "model.strategy": 1}) == (
            f"model: '{wrong}' is not a registered model: did you mean 'mmsalmask.MaskedToyMoCo'?"
        )


def test_helper_variables_are_the_users_own(small):
    cfg = load_config(small)
    cfg.test_pipeline, cfg.optimizer, cfg.norm = [], dict(type="nonsense"), 1
    check_config(cfg)


@pytest.mark.parametrize(
    "name",
    [
        "mmpretrain::mocov2/mocov2_resnet50_8xb32-coslr-200e_in1k.py",
        "mmpretrain::simclr/simclr_resnet50_16xb256-coslr-200e_in1k.py",
        "mmpretrain::byol/byol_resnet50_16xb256-coslr-200e_in1k.py",
        "mmpretrain::simsiam/simsiam_resnet50_8xb32-coslr-100e_in1k.py",
        "mmpretrain::barlowtwins/barlowtwins_resnet50_8xb256-coslr-300e_in1k.py",
        "mmpretrain::mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py",
        "mmpretrain::resnet/resnet50_8xb256-rsb-a1-600e_in1k.py",
        "mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py",
        "mmdet::mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py",
        "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
        "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py",
        "mmdet::vfnet/vfnet_r50-mdconv-c3-c5_fpn_ms-2x_coco.py",
        "mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py",
        "mmseg::pspnet/pspnet_r50-d8_4xb4-20k_voc12aug-512x512.py",
        "mmseg::swin/swin-tiny-patch4-window7_upernet_1xb8-20k_levir-256x256.py",
    ],
)
def test_real_configs_of_the_family_pass_and_a_letter_too_many_does_not(name):
    check_config(load_config(upstream(name)))
    cfg = load_config(upstream(name))
    cfg.model.backbone["deepth"] = 1
    assert "takes no 'deepth'" in error_of(check_config, cfg)


def test_kwargs_are_followed_only_where_they_are_handed_on():
    class Base:
        def __init__(self, a, b=1):
            pass

    class Child(Base):
        def __init__(self, c, **kwargs):
            kwargs.pop("d", None)
            super().__init__(**kwargs)

    class Skipping(Child):
        def __init__(self, e, **kwargs):
            super(Child, self).__init__(**kwargs)

    class Keeping(Base):
        def __init__(self, **kwargs):
            self.rest = kwargs
            super().__init__(**kwargs)

    assert set(parameters_of(Child).names) == {"a", "b", "c", "d"}
    assert not parameters_of(Child).accepts("x")
    assert set(parameters_of(Skipping).names) == {"a", "b", "e"}
    assert parameters_of(Keeping).accepts("x")


# -------------------------------------------------------------------------------------- the tools


def exit_of(raised, capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught, report_errors():
        raise raised
    return caught.value.code, capsys.readouterr().err


def test_an_input_error_is_one_line_and_status_2(capsys):
    assert exit_of(InputError("no folder 'x'"), capsys) == (2, "error: no folder 'x'\n")


def test_an_interrupt_is_one_line_and_status_130(capsys):
    assert exit_of(KeyboardInterrupt(), capsys) == (130, "interrupted\n")


def test_a_full_disk_names_the_disk_and_comforts(capsys):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/epoch_2.pth")
    status, line = exit_of(full, capsys)
    assert status == 2
    assert line.startswith("error: no space left on the disk that holds runs/epoch_2.pth")
    assert line.endswith("the last good checkpoint is kept)\n")
    assert line.count("\n") == 1


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file" / "result.json"):
        with pytest.raises(SystemExit, match="2"), report_errors():
            write_result(place, {})
        line = capsys.readouterr().err
        assert line.startswith(f"error: {place} cannot be written (")
        assert "choose another place" in line


def test_other_processes_of_a_run_exit_silently(capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert exit_of(InputError("no folder 'x'"), capsys) == (2, "")


@pytest.mark.parametrize("ours", [ValueError("bug"), OSError(errno.EACCES, "no"), KeyError("k")])
def test_a_defect_of_ours_passes_untouched(ours):
    with pytest.raises(type(ours)) as caught, report_errors():
        raise ours
    assert caught.value is ours


@pytest.mark.parametrize(
    ("registry", "part", "told"),
    [
        (
            MODELS,
            dict(type="mmpretrain.ResNet", depth=18, out_indices=3),
            "error: ResNet cannot be built with depth=18, out_indices=3 (TypeError: 'int' object "
            "is not iterable): change what it cannot take, in the config or by --cfg-options\n",
        ),
        (
            OPTIMIZERS,
            dict(type="AdamW", params=[torch.zeros(1)], lr=0.1, betas=(0.9, 2.0)),
            "error: AdamW cannot be built with lr=0.1, betas=(0.9, 2.0) (ValueError: Invalid beta "
            "parameter at index 1: 2.0): change what it cannot take, in the config or by "
            "--cfg-options\n",
        ),
    ],
)
def test_what_a_class_of_a_library_refuses_is_one_line(registry, part, told, capsys):
    with pytest.raises(SystemExit, match="2"), report_errors():
        registry.build(part)
    assert capsys.readouterr().err == told


def test_a_long_reason_and_long_settings_are_cut(capsys):
    part = dict(type="mmpretrain.LinearNeck", in_channels="x", out_channels=2, init_cfg=[{}] * 30)
    with pytest.raises(SystemExit, match="2"), report_errors():
        MODELS.build(part)
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "in_channels='x', out_channels=2 (TypeError" in line


class Picky(torch.nn.Module):
    """A user's own part that lets a library fail."""

    def __init__(self, channels):
        super().__init__()
        self.layer = torch.nn.Conv2d(channels, 1, 1)


def test_a_part_of_the_users_own_that_fails_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="negative dimension"), report_errors():
        MODELS.build(dict(type=Picky, channels=-1))
    with pytest.raises(ModuleNotFoundError), report_errors():
        MODELS.build(dict(type=importlib.import_module, name="no_such_module"))


def test_an_error_while_a_class_is_looked_for_passes_untouched(monkeypatch):
    monkeypatch.setattr(type(OPTIMIZERS), "get", staticmethod(json.loads))  # of a library, fails
    with pytest.raises(ValueError, match="Expecting value"), report_errors():
        OPTIMIZERS.build(dict(type="AdamW"))


def test_a_tool_ends_without_a_traceback():
    code = "from mmsalmask.cli import *\nfrom mmsalmask.cli import InputError, report_errors\n"
    code += "with report_errors():\n    raise InputError('no')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[-1:]) == (2, ["error: no"])
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("/my photos/of  cats", "/my photos/of  cats"),
        ("'/my photos (best)/cats'", "/my photos (best)/cats"),
        ("[/my photos, /b c/d]", ["/my photos", "/b c/d"]),
        ("[ (1, 2), a b , 0.5 ]", [(1, 2), "a b", 0.5]),
        ("1, 2", [1, 2]),
        (" 3 ", 3),
    ],
)
def test_options_keep_the_spaces_inside_of_a_value(typed, meant):
    parser = argparse.ArgumentParser()
    config_arguments(parser)
    args = parser.parse_args(["c.py", "--cfg-options", f"data_root={typed}"])
    assert args.cfg_options == {"data_root": meant}


def test_config_arguments_parse_options_and_refuse_what_is_none(capsys):
    parser = argparse.ArgumentParser()
    config_arguments(parser)
    args = parser.parse_args(["c.py", "--cfg-options", "a.b=1", "c=[x,(2,3)]", "d=None"])
    assert args.config == "c.py"
    assert args.cfg_options == {"a.b": 1, "c": ["x", (2, 3)], "d": None}
    for wrong, sentence in (("a.b", "'a.b' is not of the form KEY=VALUE"), ("a=[1,2", "mbalanced")):
        with pytest.raises(SystemExit) as caught:
            parser.parse_args(["c.py", "--cfg-options", wrong])
        assert caught.value.code == 2
        assert sentence in capsys.readouterr().err


# ----------------------------------------------------------------------------------------- values

NUMBER = "must be a finite number of at least 0"
WHOLE = "must be an integer of at least"
WRONG = {
    "optim_wrapper.optimizer.lr": (["abc", -0.1, float("nan")], NUMBER),
    "optim_wrapper.optimizer.weight_decay": ([-1, "x"], NUMBER),
    "optim_wrapper.optimizer.dampening": (["abc", -1], NUMBER),
    "optim_wrapper.optimizer.nesterov": (["yes", 1], "must be True or False"),
    "param_scheduler": (
        [[dict(type="CosineAnnealingLR", T_max=length)] for length in (-3, 0, 1.5)],
        f"param_scheduler.0.T_max {WHOLE} 1",
    ),
    "train_dataloader.batch_size": ([-3, 0, 2.5, "four", None], f"{WHOLE} 1"),
    "val_dataloader.batch_size": ([0], f"{WHOLE} 1"),
    "train_dataloader.num_workers": ([-1, 0.5, None], f"{WHOLE} 0"),
    "train_cfg.max_epochs": ([-1, 0, 1.5, "ten", None], f"{WHOLE} 1"),
    "train_cfg.val_interval": ([0], f"{WHOLE} 1"),
    "model.backbone.depth": ([19, "18"], "but ResNet comes in depths 18, 34, 50, 101, 152"),
    "model": ([None, 5, []], "must be a dict with a 'type'"),
    "default_hooks.logger": (
        [dict(type="LoggerHook", interval=interval) for interval in (0, -1, 0.5, "x")],
        f"default_hooks.logger.interval {WHOLE} 1",
    ),
    "optim_wrapper.optimizer": (["AdamW", 5], "must be a dict with a 'type'"),
    "default_hooks.checkpoint": ([False, "x"], "must be a dict with a 'type', or None"),
    "optim_wrapper.accumulative_counts": ([0, 2.5, "two"], f"{WHOLE} 1"),
    "optim_wrapper.clip_grad": ([5, "norm"], "must be a dict such as dict(max_norm=1.0)"),
    "fast_step": ([1, "no"], "must be True or False"),
    "compile_encoders": (["no"], "must be True or False"),
    "randomness.seed": (["abc", -1, 0.5, 2**32], "must be an integer from 0 to 2**32 - 1"),
    "env_cfg.mp_cfg.mp_start_method": (["spwan", 1], "must be one of fork, spawn, forkserver"),
    "log_level": (["LOUD", "info", 0.5], "must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, (values, _) in WRONG.items() for value in values]
)
def test_a_value_that_cannot_work_is_refused_by_its_key(small, key, value):
    cfg = load_config(small)
    check_config(cfg)
    cfg.merge_from_dict({key: value})
    message = error_of(check_config, cfg)
    assert message.startswith(key)
    assert WRONG[key][1] in message


@pytest.mark.parametrize(
    "options",
    [
        {"optim_wrapper.optimizer.lr": 0, "randomness.seed": None, "log_level": "DEBUG"},
        {"train_dataloader.num_workers": 4, "log_level": 20, "model.backbone.depth": 50},
        {"optim_wrapper.clip_grad": None, "env_cfg.mp_cfg.mp_start_method": "spawn"},
    ],
)
def test_values_that_work_are_left_alone(small, options):
    check_config(load_config(small, options))


@pytest.mark.parametrize(
    ("schedule", "follows"),
    [
        (dict(type="CosineAnnealingLR"), False),
        (dict(type="CosineAnnealingLR", convert_to_iter_based=True), False),
        (dict(type="LinearLR", end=2), False),
        (dict(type="LinearLR", end=2, convert_to_iter_based=True), True),
        (dict(type="CosineAnnealingLR", by_epoch=False), True),
        (dict(type="ReduceOnPlateauLR", monitor="loss"), True),
    ],
)
def test_a_schedule_of_epochs_needs_a_training_of_epochs(small, schedule, follows):
    """mmengine would leave the learning rate where one epoch brings it."""
    cfg = load_config(small)
    cfg.param_scheduler = [schedule]
    check_config(cfg)
    for loop in (dict(type="IterBasedTrainLoop"), dict(by_epoch=False)):
        cfg.train_cfg = dict(**loop, max_iters=20)
        if follows:
            check_config(cfg)
        else:
            assert error_of(check_config, cfg).startswith("param_scheduler.0 counts epochs")


@pytest.mark.parametrize("absent", ["optim_wrapper", "train_dataloader", "val_evaluator"])
def test_a_part_that_lacks_the_others_is_refused(small, absent):
    cfg = load_config(small)
    check_together(cfg)
    cfg.merge_from_dict({absent: None})
    check_config(cfg)  # enough to look at masks
    assert f"{absent} is missing beside " in error_of(check_together, cfg)


# --------------------------------------------------------------------------------- hard negatives


def model_with(algorithm: str, masker: dict | None, head: dict | None = None) -> Config:
    preprocessor = dict(type="mmsalmask.MaskingDataPreprocessor", masker=masker)
    model = dict(type=algorithm, data_preprocessor=preprocessor, head=head or {})
    return Config(dict(default_scope="mmpretrain", model=model))


def masker(**options) -> dict:
    return dict(type="mmsalmask.SaliencyMasker", **options)


TAKERS = ["mmsalmask.MaskedMoCo", "mmsalmask.MaskedSimCLR"]
TWO_VIEWS = ["MoCo", "SimCLR", "BYOL", "SimSiam", "BarlowTwins", "MoCoV3"]


@pytest.mark.parametrize("algorithm", TWO_VIEWS)
@pytest.mark.parametrize("options", [{}, dict(hard_negatives=2)])
def test_an_algorithm_of_two_views_refuses_hard_negatives_wherever_the_masker_stands(
    algorithm, options
):
    inside = model_with(algorithm, masker(**options))
    outside = Config(dict(inside, data_preprocessor=inside.model.pop("data_preprocessor")))
    inside = model_with(algorithm, masker(**options))
    for cfg, path in ((inside, "model.data_preprocessor"), (outside, "data_preprocessor")):
        assert error_of(check_config, cfg) == (
            f"model: {algorithm} takes two views, the hard negatives that the masker makes would "
            f"be ignored: set {path}.masker.hard_negatives=0"
        )


@pytest.mark.parametrize("algorithm", TWO_VIEWS)
def test_an_algorithm_of_two_views_takes_a_masker_without_hard_negatives(algorithm):
    check_config(model_with(algorithm, masker(hard_negatives=0)))
    check_config(model_with(algorithm, None))


@pytest.mark.parametrize("algorithm", TAKERS)
def test_settings_of_hard_negatives_need_hard_negatives(algorithm):
    ratio = dict(hard_negative_ratio=(0.1, 0.2))
    for made in ({}, dict(hard_negatives=2)):
        check_config(model_with(algorithm, masker(**made, **ratio), dict(penalty=1.0)))
    for nothing in (masker(hard_negatives=0), None):
        check_config(model_with(algorithm, nothing))
        message = error_of(check_config, model_with(algorithm, nothing, dict(penalty=1.0)))
        assert message.startswith("model.head.penalty has no effect, since no hard negatives")
    message = error_of(check_config, model_with(algorithm, masker(hard_negatives=0, **ratio)))
    assert message.startswith("model.data_preprocessor.masker.hard_negative_ratio has no effect")


@pytest.mark.parametrize("algorithm", [*TWO_VIEWS, "mmsalmask.MaskedSimCLR"])
def test_an_algorithm_that_asks_for_one_image_refuses_mixed_queries(algorithm):
    mixing = dict(strategy=dict(type="mmsalmask.OtherImage"), hard_negatives=0)
    message = error_of(check_config, model_with(algorithm, masker(**mixing)))
    assert message.startswith(f"model: {algorithm.removeprefix('mmsalmask.')} asks for one image")
    assert "set another model.data_preprocessor.masker.strategy" in message
    check_config(model_with("mmsalmask.MaskedMoCo", masker(**mixing)))


def test_a_masker_without_a_type_is_refused():
    message = error_of(check_config, model_with(TAKERS[0], dict(grid=14)))
    assert message.startswith("model.data_preprocessor.masker has no 'type'")


@pytest.mark.parametrize("algorithm", TWO_VIEWS)
def test_an_algorithm_that_would_ignore_local_crops_refuses_them(algorithm):
    cutting = masker(hard_negatives=0, local_crops=2)
    assert error_of(check_config, model_with(algorithm, cutting)) == (
        f"model: {algorithm.removeprefix('mmsalmask.')} would ignore the local crops that the "
        "masker cuts: set model.data_preprocessor.masker.local_crops=0, or train "
        "mmsalmask.MaskedMoCo or mmsalmask.MaskedSimCLR"
    )
    for taker in TAKERS:
        check_config(model_with(taker, cutting))


def test_custom_imports_may_lie_beside_the_config_or_where_the_user_is(tmp_path, monkeypatch):
    beside, here = tmp_path / "configs", tmp_path / "here"
    for folder, name in ((beside, "part_beside"), (here, "part_here")):
        folder.mkdir()
        (folder / f"{name}.py").write_text("VALUE = 1\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(here)
    config = beside / "recipe.py"
    config.write_text("custom_imports = dict(imports=['part_beside', 'part_here'])\n")
    load_config(str(config))
    assert {"part_beside", "part_here"} <= set(sys.modules)
    config.write_text("custom_imports = dict(imports=['part_nowhere'])\n")
    with pytest.raises(InputError, match=r"imports what .*No module named 'part_nowhere'\): put"):
        load_config(str(config))


def test_what_fails_in_a_module_of_the_users_is_told_with_its_line(tmp_path, monkeypatch):
    package = tmp_path / "broken_package"
    package.mkdir()
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "recipe.py"
    for name, code, words in (
        ("wrong_name", "from mmsalmask.masking import Strtegy", "imports what cannot be imported"),
        ("missing", "import nowhere_to_be_found", "No module named 'nowhere_to_be_found'"),
        ("divides", "1 / 0", "cannot be read: ZeroDivisionError: division by zero"),
    ):
        (package / f"{name}.py").write_text(f"\n{code}\n")
        config.write_text(f"custom_imports = dict(imports=['broken_package.{name}'])\n")
        told = error_of(load_config, str(config))
        assert words in told
        assert f", at {Path('broken_package', name)}.py:2" in told
        assert "put the module beside" not in told
    config.write_text("custom_imports = dict(imports=['broken_package.wrng_name'])\n")
    assert "(No module named 'broken_package.wrng_name'): put" in error_of(load_config, str(config))


def test_a_child_moves_the_data_of_its_base_and_adds_to_its_imports(small, tmp_path):
    child = tmp_path / "child.py"
    child.write_text("_base_ = 'small.py'\ndata_root = '/mine'\n")
    assert "mine" not in Path(small).read_text()
    cfg = load_config(str(child))
    assert cfg.train_dataloader.dataset.dataset.data_root == "/mine"
    assert cfg.val_dataloader.dataset.data_root == "/mine"
    cfg = load_config(str(child), {"data_root": "/other"})
    assert cfg.val_dataloader.dataset.data_root == "/other"
    (tmp_path / "child.json").write_text('{"_base_": "small.py", "data_root": "/mine"}')
    assert load_config(str(tmp_path / "child.json")).val_dataloader.dataset.data_root == "/mine"
    # One that writes its places itself has them.
    own = tmp_path / "own.py"
    val = "val_dataloader = dict(dataset=dict(data_root=data_root + '/photos'))"
    own.write_text(f"_base_ = 'small.py'\ndata_root = 'data'\n{val}\n")
    cfg = load_config(str(own))
    assert cfg.val_dataloader.dataset.data_root == "data/photos"
    grandchild = tmp_path / "grandchild.py"
    grandchild.write_text("_base_ = 'child.py'\ncustom_imports = dict(imports=['json'])\n")
    child.write_text(f"{child.read_text()}custom_imports = dict(imports=['csv', 'json'])\n")
    cfg = load_config(str(grandchild))
    assert cfg.custom_imports.imports == ["csv", "json"]
    assert cfg.val_dataloader.dataset.data_root == "/mine"


@pytest.mark.parametrize("wrong", ["train_cgf", "train_datalader", "default_hook"])
def test_a_misspelt_section_beside_the_right_one_is_refused(small, wrong):
    cfg = load_config(small)
    cfg[wrong] = dict(max_epochs=3)
    assert error_of(check_config, cfg).startswith(f"no config key '{wrong}': did you mean '")


def test_an_unknown_part_of_ones_own_is_not_taken_for_a_misspelling(small):
    cfg = load_config(small)
    cfg.custom_hooks[0].type = "mmsalmask.Mosaic"
    told = error_of(check_config, cfg)
    assert "did you mean" not in told
    assert told.endswith("registered hook; if it is yours, name its module in custom_imports")
