"""The exported backbone starts other people's detectors and nets."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from mmpretrain.models import ResNet, ResNetV1c
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS

import mmsalmask  # noqa: F401  serves mmcv's operators where they are not compiled
from mmsalmask.checkpoint import load_checkpoint
from mmsalmask.commands import export_backbone

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "export_backbone.py"


@pytest.fixture
def export(capsys):
    """Run the tool in this process: arguments → (exit status, standard output, errors)."""

    def run(*arguments):
        status = 0
        try:
            export_backbone.main([str(argument) for argument in arguments])
        except SystemExit as leave:
            status = leave.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A checkpoint as MoCo leaves it, with a ResNet-50 of random weights and statistics."""
    torch.manual_seed(0)
    query = ResNet(50).state_dict()
    query = {name: random_like(value) for name, value in query.items()}
    state = {f"backbone.{name}": value for name, value in query.items()}
    state |= {f"encoder_k.module.0.{name}": random_like(value) for name, value in query.items()}
    state |= {"neck.mlp.0.weight": torch.rand(2, 2), "queue": torch.rand(4, 8)}
    config = "model = dict(type='MoCo', backbone=dict(type='ResNet', depth=50))"
    path = tmp_path_factory.mktemp("run") / "epoch_9.pth"
    torch.save({"state_dict": state, "meta": {"cfg": config, "epoch": 9, "iter": 90}}, path)
    return path, query


def random_like(value):
    return torch.rand_like(value) if value.is_floating_point() else torch.randint_like(value, 9)


@pytest.fixture(scope="module")
def exported(pretrained):
    """The export of that checkpoint, as a user makes it in a shell; and what the tool told."""
    result = subprocess.run(
        [sys.executable, TOOL, pretrained[0]],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    return pretrained[0].with_name("epoch_9_backbone.pth"), result.stdout


def test_the_default_export_is_the_query_backbone_and_says_what_it_is(pretrained, exported):
    path, told = exported
    content = torch.load(path, weights_only=True)
    assert content["state_dict"].keys() == pretrained[1].keys()
    for name, value in pretrained[1].items():
        assert torch.equal(content["state_dict"][name], value), name
    assert content["meta"]["epoch"] == "9"
    assert content["meta"]["high_pass"] == "false"
    rest = "encoder_k (318 tensors), neck (1 tensor), queue (1 tensor)"
    assert f"names of OpenMMLab, the backbone under backbone.; left over: {rest}\n" in told
    assert f"{path}: 318 tensors, 23.51 million parameters, openmmlab names" in told
    assert f"init_cfg=dict(type='Pretrained', checkpoint='{path}')" in told


def test_mmpretrain_starts_from_the_export(pretrained, exported):
    init = {"type": "Pretrained", "checkpoint": str(exported[0])}
    net = MMPRETRAIN_MODELS.build({"type": "mmpretrain.ResNet", "depth": 50, "init_cfg": init})
    net.init_weights()
    for name, value in net.state_dict().items():
        assert torch.equal(value, pretrained[1][name]), name


def test_mmdets_faster_rcnn_c4_starts_from_the_export_with_every_tensor_in_place(
    pretrained, exported
):
    mmdet = pytest.importorskip("mmdet")
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import DefaultScope

    config = Config.fromfile(
        Path(mmdet.__file__).parent / ".mim/configs/_base_/models/faster-rcnn_r50-caffe-c4.py"
    ).model
    start = {"style": "pytorch", "init_cfg": {"type": "Pretrained", "checkpoint": str(exported[0])}}
    config.backbone.update(start)
    config.roi_head.shared_head.update(start)
    with DefaultScope.overwrite_default_scope("mmdet"):
        detector = MODELS.build(config)
        detector.init_weights()

    backbone, shared = detector.backbone, detector.roi_head.shared_head
    # The C4 detector keeps the last stage in its RoI head; together they hold all of the net.
    held = {**backbone.state_dict(), **shared.state_dict()}
    assert len(held) == len(backbone.state_dict()) + len(shared.state_dict())
    assert held.keys() == pretrained[1].keys()
    for name, value in held.items():
        assert torch.equal(value, pretrained[1][name]), name

    state = load_checkpoint(exported[0])["state_dict"]
    for part, inside in [(backbone, False), (shared, True)]:
        found = part.load_state_dict(state, strict=False)
        assert not found.missing_keys
        assert all(name.startswith("layer4.") != inside for name in found.unexpected_keys)


def test_torchvision_and_detectron2_exports_hold_the_backbone(pretrained, export, tmp_path):
    status, _, errors = export(pretrained[0], "--format", "torchvision", "-o", tmp_path / "a.pth")
    assert status == 0, errors
    net = torchvision.models.resnet50()
    state = torch.load(tmp_path / "a.pth", weights_only=True)["state_dict"]
    found = net.load_state_dict(state, strict=False)
    assert set(found.missing_keys) == {"fc.weight", "fc.bias"}
    assert not found.unexpected_keys
    assert torch.equal(net.layer4[2].conv3.weight, pretrained[1]["layer4.2.conv3.weight"])

    status, told, errors = export(pretrained[0], "--format", "detectron2", "-o", tmp_path / "a.pkl")
    assert status == 0, errors
    assert "265 tensors" in told
    assert "STRIDE_IN_1X1 False" in told


def test_the_tool_overwrites_nothing_unasked_and_exits_with_a_sentence(
    pretrained, exported, export
):
    before = exported[0].read_bytes()
    status, _, errors = export(pretrained[0])
    assert status == 2
    assert errors.startswith("error: ")
    assert "exists already" in errors
    assert len(errors.splitlines()) == 1
    assert exported[0].read_bytes() == before

    status, _, errors = export(pretrained[0], "-o", pretrained[0], "--force")
    assert status == 2
    assert "is the checkpoint itself" in errors

    exported[0].write_text("something else")
    assert export(pretrained[0], "--force")[0] == 0
    assert len(load_checkpoint(exported[0])["state_dict"]) == 318
    exported[0].write_bytes(before)


def written(path, state, backbone=None):
    meta = {"cfg": f"model = dict(type='MoCo', backbone={backbone!r})"} if backbone else {}
    torch.save({"state_dict": state, "meta": meta}, path)
    return path


@pytest.mark.parametrize(
    ("backbone", "kept", "missing"),
    [
        ({"type": "ResNet", "depth": 50}, lambda number, name: number < 30, r"240 of 265 .*layer1"),
        (None, lambda number, name: number < 30, r"ResNet-50 only, 240 of 265 .*layer1"),
        # Whole blocks: without a config, the blocks that are there tell how deep the net was.
        (
            None,
            lambda number, name: "layer4.2." not in name,
            r"ResNet-50 only, 15 of .*layer4\.2\.",
        ),
        (None, lambda number, name: "layer3.1.bn2." not in name, r"4 of 265 .*layer3\.1\.bn2\."),
    ],
)
def test_a_part_of_a_backbone_is_refused_and_what_is_missing_named(
    export, tmp_path, backbone, kept, missing
):
    names = enumerate(ResNet(50).state_dict().items())
    part = {f"backbone.{name}": value for number, (name, value) in names if kept(number, name)}
    status, _, errors = export(written(tmp_path / "a.pth", part, backbone))
    assert status == 2
    assert re.search(missing, errors), errors
    assert len(errors.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "a.pth"]


@pytest.mark.parametrize(
    "backbone",
    [
        {"type": "ResNet", "depth": 18, "base_channels": 8, "stem_channels": 8},
        {
            **{"type": "ResNet", "depth": 18, "num_stages": 3, "out_indices": (2,)},
            **{"strides": (1, 2, 2), "dilations": (1, 1, 1)},
        },
        {"type": "RegNet", "arch": "regnetx_400mf"},
        {"type": "MobileNetV2", "widen_factor": 0.25},
    ],
)
def test_whole_backbones_of_any_kind_are_exported(export, tmp_path, backbone):
    net = MMPRETRAIN_MODELS.build({**backbone, "_scope_": "mmpretrain"})
    state = {f"backbone.{name}": value for name, value in net.state_dict().items()}
    # A config that speaks of other libraries' parts is none to compare with.
    for config in [backbone, {"type": "Unknown"}, None][: 1 if "num_stages" in backbone else 3]:
        status, told, errors = export(written(tmp_path / "a.pth", state, config), "--force")
        assert status == 0, errors
        assert ("C4" in told) == ("num_stages" in backbone)  # whose res5 has one width


def test_an_export_says_which_backbones_it_starts_and_mmsegs_deep_stem_is_none(
    exported, export, tmp_path
):
    assert "mmseg: backbone=dict(type='ResNet', " in exported[1]
    assert "not ResNetV1c and ResNetV1d, whose stem is another" in exported[1]
    assert "in mmdet's C4 models the same in roi_head.shared_head" in exported[1]
    mmseg = pytest.importorskip("mmseg.models")
    state = load_checkpoint(exported[0])["state_dict"]
    found = mmseg.ResNetV1c(depth=50).load_state_dict(state, strict=False)
    assert all(name.startswith("stem.") for name in found.missing_keys)
    assert found.missing_keys
    assert not mmseg.ResNet(depth=50).load_state_dict(state, strict=False).missing_keys


def test_a_full_or_read_only_disk_is_told_in_a_sentence(export, pretrained, small_disk):
    out = small_disk / "backbone.pth"
    for reason in ("No space left on device", "Read-only file system"):
        for file in (out, out.with_suffix(".safetensors")):
            status, _, errors = export(pretrained[0], "-o", file)
            assert (status, errors) == (
                2,
                f"error: could not write {file} ({reason}): make room or give permission, or name "
                "another file\n",
            )
        assert list(small_disk.iterdir()) == []
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)


def test_a_caffe_style_resnet_is_not_passed_off_as_torchvisions(export, tmp_path):
    config = "model = dict(type='MoCo', backbone=dict(type='ResNet', depth=18, style='caffe'))"
    state = {f"backbone.{name}": value for name, value in ResNet(18).state_dict().items()}
    torch.save({"state_dict": state, "meta": {"cfg": config}}, tmp_path / "a.pth")
    status, _, errors = export(tmp_path / "a.pth", "--format", "torchvision")
    assert status == 2
    assert "style 'caffe'" in errors
    assert list(tmp_path.iterdir()) == [tmp_path / "a.pth"]
    status, told, _ = export(tmp_path / "a.pth", "--format", "detectron2")
    assert status == 0
    assert "STRIDE_IN_1X1 True" in told


def test_a_deep_stem_is_exported_for_mmpretrain_alone(export, tmp_path):
    state = {f"backbone.{name}": x for name, x in ResNetV1c(depth=18).state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    status, told, _ = export(tmp_path / "a.pth")
    assert status == 0
    assert "mmdet and mmseg name a deep stem's tensors otherwise" in told
    status, _, errors = export(tmp_path / "a.pth", "--format", "detectron2")
    assert status == 2
    assert "18 of 132 tensors" in errors
    assert not (tmp_path / "a_backbone.pkl").exists()


def test_a_diverged_backbone_is_refused_and_nothing_is_written(pretrained, export, tmp_path):
    path, _ = pretrained
    checkpoint = torch.load(path, weights_only=True)
    for name in ("backbone.conv1.weight", "backbone.bn1.running_var"):
        checkpoint["state_dict"][name][0] = float("nan")
    torch.save(checkpoint, tmp_path / "epoch_9.pth")
    status, _, errors = export(tmp_path / "epoch_9.pth", "-o", tmp_path / "out.pth")
    assert status == 2
    assert errors.startswith(
        "error: 2 of the backbone's 318 tensors hold values that are not finite (conv1.weight, bn1."
    )
    assert not (tmp_path / "out.pth").exists()
