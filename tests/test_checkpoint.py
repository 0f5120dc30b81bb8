"""Checkpoints: what is read, what is refused, and whether the right weights come out."""

import os
import pickle
import re
import tarfile
from collections import OrderedDict, defaultdict
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.logging import HistoryBuffer, MMLogger
from mmengine.runner import Runner
from mmengine.runner.checkpoint import get_torchvision_models
from mmpretrain.models import ConvNeXt, ResNet, ResNetV1c, ResNetV1d
from mmpretrain.structures import DataSample
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from mmsalmask.checkpoint import (
    backbone_state,
    check_matches,
    check_start,
    describe,
    load_checkpoint,
    local_file,
    read_config,
    save_backbone,
    saw_high_pass,
    to_detectron2,
    to_torchvision,
    warn_if_filter_differs,
)
from mmsalmask.config import load_config
from mmsalmask.errors import InputError
from mmsalmask.masking import Strategy
from mmsalmask.registry import MODELS
from mmsalmask.saliency import BackboneSaliency

ROOT = Path(__file__).resolve().parents[1]
TINY_RESNET = {
    "type": "ResNet",
    "depth": 18,
    "stem_channels": 8,
    "base_channels": 8,
    "zero_init_residual": False,
}
TINY_MOCO = {
    "type": "mmpretrain.MoCo",
    "queue_len": 8,
    "feat_dim": 8,
    "momentum": 0.01,
    "data_preprocessor": {"type": "SelfSupDataPreprocessor", "mean": [0.0] * 3, "std": [1.0] * 3},
    "backbone": TINY_RESNET,
    "neck": {
        "type": "MoCoV2Neck",
        "in_channels": 64,
        "hid_channels": 16,
        "out_channels": 8,
        "with_avg_pool": True,
    },
    "head": {"type": "ContrastiveHead", "loss": {"type": "CrossEntropyLoss"}, "temperature": 0.2},
}


def write_run(folder, model=TINY_MOCO):
    """Two iterations of MoCo by mmengine's Runner; returns the model and its checkpoint."""
    views = [
        {"inputs": [torch.rand(3, 32, 32), torch.rand(3, 32, 32)], "data_samples": DataSample()}
        for _ in range(4)
    ]
    runner = Runner(
        model=model,
        work_dir=str(folder),
        train_dataloader=DataLoader(views, 2, collate_fn=collate),
        train_cfg={"by_epoch": True, "max_epochs": 1},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}},
        param_scheduler={"type": "CosineAnnealingLR", "T_max": 1},
        default_scope="mmpretrain",
        experiment_name=folder.name,
        cfg=Config({"model": model, "train_cfg": {"ratio": float("inf"), "note": "it's"}}),
        log_level="ERROR",
    )
    return runner.train(), folder / "epoch_1.pth"


def collate(batch):
    return {
        "inputs": [torch.stack(view) for view in zip(*(x["inputs"] for x in batch), strict=True)],
        "data_samples": [x["data_samples"] for x in batch],
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    return write_run(tmp_path_factory.mktemp("run"))


def assert_same(state, expected):
    assert list(state) == list(expected)
    for name, value in expected.items():
        assert state[name].dtype == value.dtype, name
        assert torch.equal(state[name], value), name


def evaluating(net):
    net.eval()  # of mmpretrain's ResNet, it returns None
    return net


# What is read


def test_a_runs_checkpoint_gives_the_query_backbone_bit_for_bit_and_not_the_momentum_one(run):
    model, path = run
    state = backbone_state(load_checkpoint(path))
    assert_same(state, model.backbone.state_dict())
    momentum = model.encoder_k.module[0].state_dict()
    assert list(state) == list(momentum)
    assert not torch.equal(state["conv1.weight"], momentum["conv1.weight"])


def test_the_rest_of_a_runs_checkpoint_is_read_as_it_was_written(run):
    _, path = run
    checkpoint = load_checkpoint(path)
    trusted = torch.load(path, weights_only=False)
    assert checkpoint["meta"] == trusted["meta"]
    assert_same(checkpoint["state_dict"], trusted["state_dict"])
    history = checkpoint["message_hub"]["log_scalars"]["train/loss"]
    original = trusted["message_hub"]["log_scalars"]["train/loss"]
    np.testing.assert_array_equal(history._log_history, original._log_history)
    assert history._log_history.dtype == original._log_history.dtype
    assert checkpoint["optimizer"].keys() == trusted["optimizer"].keys()


@pytest.mark.parametrize("zipped", [True, False])
def test_plain_python_and_numpy_values_survive(tmp_path, zipped):
    content = {
        "state_dict": OrderedDict(a=torch.arange(3)),
        "arrays": [np.arange(6.0).reshape(2, 3).T, np.array([1, 2], ">i2"), np.array(["ab", "c"])],
        "numbers": [np.float64(0.1), np.int32(-7), np.bool_(True), 2**70],
        "counts": defaultdict(list, x=[1]),
        "rest": (None, True, 1.5, "ü", b"\xff", {"k": {1, 2}}),
    }
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    read = load_checkpoint(tmp_path / "a.pth")
    for array, expected in zip(read["arrays"], content["arrays"], strict=True):
        np.testing.assert_array_equal(array, expected)
        assert array.dtype == expected.dtype.newbyteorder("=")
    assert read["numbers"] == content["numbers"]
    assert [type(n) for n in read["numbers"]] == [type(n) for n in content["numbers"]]
    assert read["counts"] == {"x": [1]}
    assert read["rest"] == content["rest"]
    assert torch.equal(read["state_dict"]["a"], torch.arange(3))


def test_arrays_under_the_names_of_numpy_1_and_2_are_read(tmp_path):
    for core in ("core", "_core"):
        other = "core" if core == "_core" else "_core"
        content = pickle.dumps({"a": np.arange(3.0), "b": np.float32(2)}, protocol=2)
        content = content.replace(b"numpy.%s." % other.encode(), b"numpy.%s." % core.encode())
        path = write_zip(tmp_path / f"{core}.pth", content)
        assert f"numpy.{core}.multiarray".encode() in path.read_bytes()
        read = load_checkpoint(path)
        assert read["b"] == 2
        np.testing.assert_array_equal(read["a"], np.arange(3.0))


def write_zip(path, content):
    """A checkpoint of torch.save's zip format that holds a given pickle."""
    with open(path, "wb") as stream:
        writer = torch._C.PyTorchFileWriter(stream)
        writer.write_record("data.pkl", content, len(content))
        writer.write_end_of_file()
    return path


def test_reading_leaves_torchs_allow_list_as_it_was(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    torch.save({"a": HistoryBuffer([1.0], [1])}, tmp_path / "b.pth")
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([HistoryBuffer])
    try:
        load_checkpoint(tmp_path / "a.pth")
        assert type(load_checkpoint(tmp_path / "b.pth")["a"]) is not HistoryBuffer
        assert set(torch.serialization.get_safe_globals()) == {*before, HistoryBuffer}
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_safetensors_are_read_with_their_metadata(tmp_path):
    save_file({"layer1.x": torch.ones(2)}, tmp_path / "a.safetensors", {"epoch": "3"})
    read = load_checkpoint(tmp_path / "a.safetensors")
    assert read["meta"] == {"epoch": "3"}
    assert torch.equal(read["state_dict"]["layer1.x"], torch.ones(2))
    assert load_checkpoint(tmp_path / "a.safetensors", "meta")["state_dict"]["layer1.x"].is_meta


# What is refused


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_refused_by_name_and_does_not_run(tmp_path, zipped):
    path, mark = tmp_path / "a.pth", tmp_path / "ran"
    attack = {"state_dict": {"conv1.weight": torch.ones(1)}, "meta": Call(os.mkdir, str(mark))}
    torch.save(attack, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        InputError, match=r"a\.pth contains code or objects \(\w+\.mkdir\), refused"
    ):
        load_checkpoint(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists(), "the attack is harmless, this test proves nothing"


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (Call(eval, "1"), "eval"),
        (Call(getattr, OrderedDict, "__init__"), "getattr"),
        (Call(np.ndarray, (1,), np.dtype("f8"), b"12345678"), "numpy.ndarray"),
        (Call(np.dtype, "O"), "numpy.dtype"),
        (Config({"a": 1}), "mmengine.config.config.Config"),
        (np.array([{}], dtype=object), "numpy.dtype"),
    ],
)
def test_objects_that_could_be_misused_are_refused(tmp_path, attack, name):
    torch.save({"a": attack}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=rf"contains code or objects \({re.escape(name)}"):
        load_checkpoint(tmp_path / "a.pth")


def test_a_checkpoint_changes_neither_numpys_dtypes_nor_mmengines_history(tmp_path):
    methods = dict(HistoryBuffer._statistics_methods)
    poisoned = Call(HistoryBuffer, state={"statistics_methods": {"mean": "other"}})
    # Flag 1 says that the items are pointers to Python objects.
    dtype = Call(np.dtype, "f8", state=(3, "<", None, None, None, -1, -1, 63))
    torch.save({"a": poisoned, "b": dtype}, tmp_path / "a.pth")
    load_checkpoint(tmp_path / "a.pth")
    assert HistoryBuffer._statistics_methods == methods
    assert not np.dtype("f8").hasobject


def test_programs_archives_and_other_files_are_refused(tmp_path):
    program = tmp_path / "script.pth"
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), str(program))
    with pytest.raises(InputError, match=r"contains code \(a TorchScript program\)"):
        load_checkpoint(program)

    # A tar whose first member's name makes it look like torch.save's older format.
    mark = tmp_path / "ran"
    tar = tmp_path / "tar.pth"
    head = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)[:-1]
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo(head.decode("utf-8", "surrogateescape")))
    assert tar.read_bytes().startswith(head)
    with pytest.raises(InputError, match="tar archive"):
        load_checkpoint(tar)

    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps({"a": Call(os.mkdir, str(mark))}))
    text = tmp_path / "text.pth"
    text.write_text("version https://git-lfs.github.com/spec/v1")
    for file in (plain, text):
        with pytest.raises(InputError, match=r"not a checkpoint that torch\.save or safetensors"):
            load_checkpoint(file)
    assert not mark.exists()

    (tmp_path / "empty.pth").touch()
    with pytest.raises(InputError, match="an empty file"):
        load_checkpoint(tmp_path / "empty.pth")
    torch.save(torch.ones(2), tmp_path / "tensor.pth")
    with pytest.raises(InputError, match="holds a Tensor where a checkpoint holds a dict"):
        load_checkpoint(tmp_path / "tensor.pth")


KINDS = st.sampled_from(["zip", "legacy", "safetensors"])


def write_kind(path, kind):
    """A small checkpoint in one of the three formats; returns its bytes."""
    state = {"state_dict": {f"layer1.{i}": torch.full((3, 5), float(i)) for i in range(5)}}
    if kind == "safetensors":
        save_file(state["state_dict"], path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    return path.read_bytes()


@settings(deadline=None, max_examples=60, derandomize=True)
@given(share=st.floats(0.0, 1.0, exclude_max=True), kind=KINDS)
def test_a_truncated_file_is_called_so(tmp_path_factory, share, kind):
    path = tmp_path_factory.mktemp("cut") / "a.pth"
    content = write_kind(path, kind)
    path.write_bytes(content[: max(int(share * len(content)), 16)])
    with pytest.raises(InputError, match="truncated or damaged"):
        load_checkpoint(path)


@settings(deadline=None, max_examples=120, derandomize=True)
@given(share=st.floats(0.0, 1.0, exclude_max=True), byte=st.integers(0, 255), kind=KINDS)
def test_a_wrong_byte_gives_a_sentence_or_goes_unnoticed(tmp_path_factory, share, byte, kind):
    path = tmp_path_factory.mktemp("flip") / "a.pth"
    content = bytearray(write_kind(path, kind))
    content[int(share * len(content))] = byte
    path.write_bytes(content)
    with suppress(InputError):  # any other exception fails
        assert isinstance(load_checkpoint(path), dict)


def test_a_missing_file_names_the_nearest_ones(tmp_path):
    for name in ("epoch_1.pth", "epoch_20.pth", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"no checkpoint .*epoch_2\.pth; .*: epoch_20\.pth"):
        load_checkpoint(tmp_path / "epoch_2.pth")
    with pytest.raises(InputError, match=r"is a folder, give one file; .*epoch_1\.pth"):
        load_checkpoint(tmp_path)
    with pytest.raises(InputError, match=r"folder .*nowhere does not exist"):
        load_checkpoint(tmp_path / "nowhere" / "a.pth")


def test_addresses_are_downloaded_once_and_a_failure_names_them(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    torch.save({"conv1.weight": torch.ones(1)}, tmp_path / "source.pth")
    asked = []

    def fetch(url, dst, hash_prefix=None, progress=True):
        asked.append((url, hash_prefix))
        if "offline" in url:
            raise OSError("Name or service not known")
        with open(dst, "wb") as stream:
            stream.write((tmp_path / "source.pth").read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    for _ in range(2):
        assert "conv1.weight" in load_checkpoint("torchvision://resnet50")
    assert asked == [("https://download.pytorch.org/models/resnet50-0676ba61.pth", "0676ba61")] or (
        len(asked) == 1
        and re.search(r"/resnet50-([0-9a-f]{8})\.pth", asked[0][0])[1] == asked[0][1]
    )
    assert local_file("http://host/run-12.pth?x=1").name == "run-12.pth"
    assert asked[-1][1] is None
    with pytest.raises(InputError, match=r"https://offline/a\.pth .*a local file may be given"):
        load_checkpoint("https://offline/a.pth")
    with pytest.raises(InputError, match=r"no weights named 'resnet5'; near names: .*resnet50"):
        load_checkpoint("torchvision://resnet5")


def test_localizers_of_the_recipes_take_torchvisions_second_weights_and_depth_the_first():
    found = {}
    recipes = [*ROOT.glob("configs/*/*-salmask-*_resnet50_*_in*.py")]
    recipes += ROOT.glob("configs/depth/*_resnet50*.py")
    for path in recipes:
        checkpoints = re.findall(r"torchvision://[\w.]+", repr(load_config(str(path)).to_dict()))
        # Beside the encoder of poses, what _base_/localizers.py offers and no recipe takes.
        others = {"torchvision://resnet18", "torchvision://mobilenet_v2"}
        for checkpoint in set(checkpoints) - others:
            found.setdefault((path.parent.name == "depth", checkpoint), []).append(path.stem)
    assert {key: len(names) for key, names in found.items()} == {
        (False, "torchvision://resnet50.imagenet1k_v2"): 10,
        (True, "torchvision://resnet50"): 4,
    }
    addresses = get_torchvision_models()
    weights = torchvision.models.ResNet50_Weights
    assert addresses["resnet50.imagenet1k_v2"] == weights.IMAGENET1K_V2.url == weights.DEFAULT.url
    assert addresses["resnet50"] == weights.IMAGENET1K_V1.url


# The backbone


def test_torchvisions_resnet_loses_only_its_classifier_and_fits_mmpretrains():
    theirs = torchvision.models.resnet18()
    state = backbone_state(theirs.state_dict())
    assert {k for k in theirs.state_dict() if k not in state} == {"fc.weight", "fc.bias"}
    ours = ResNet(18)
    check_matches(ours, state, "resnet18")
    ours.load_state_dict(state)
    images = torch.rand(1, 3, 64, 64)
    trunk = torch.nn.Sequential(*list(theirs.children())[:-2])
    with torch.no_grad():
        torch.testing.assert_close(evaluating(ours)(images)[-1], evaluating(trunk)(images))


@pytest.mark.parametrize(
    ("checkpoint", "found"),
    [
        ({"state_dict": {"encoder_k.module.0.conv1.weight": 0, "queue": 0}}, "encoder_k, queue"),
        ({"state_dict": {"module.encoder_q.layer1.0.conv1.weight": 0}}, "module"),
        ({"student": {"layer1.0.conv1.weight": 0}, "epoch": 1}, "epoch, student"),
        ({"layer1.0.conv1.weight": torch.ones(1), "neck.0.weight": torch.ones(1)}, "layer1, neck"),
        ({"state_dict": {"backbone.conv1.weight": "text"}}, "backbone"),
        ({"state_dict": None}, "nothing"),
    ],
)
def test_a_checkpoint_without_backbone_is_refused_with_its_prefixes(checkpoint, found):
    with pytest.raises(InputError, match=f"no backbone: its keys begin with {found},"):
        backbone_state(checkpoint)


def test_another_architecture_is_refused_with_counts_and_first_names():
    state = ResNet(50).state_dict()
    net = ResNet(18)
    check_matches(net, net.state_dict(), "same")
    old = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    check_matches(net, old, "old")
    with pytest.raises(InputError) as caught:
        check_matches(net, state, "epoch_9.pth")
    message = str(caught.value)
    missing = [k for k in old if k not in state]
    unexpected = [k for k in state if k not in net.state_dict()]
    assert message.startswith(
        "epoch_9.pth is a checkpoint of another architecture than this ResNet"
    )
    assert not missing
    assert f"{len(unexpected)} unexpected ({', '.join(unexpected[:5])} and" in message
    assert "layer1.0.conv1.weight (64, 64, 1, 1) instead of (64, 64, 3, 3)" in message
    with pytest.raises(InputError, match=r"1 missing \(conv1\.weight\)$"):
        check_matches(net, {k: v for k, v in old.items() if k != "conv1.weight"}, "cut")


def small(depth: int, net: type = ResNet) -> ResNet:
    return net(depth=depth, stem_channels=8, base_channels=8)


def test_a_start_is_refused_where_mmengine_would_leave_weights_at_random():
    def told(modules, state, **meta) -> str:
        with pytest.raises(InputError) as caught:
            check_start(modules, {"state_dict": state, "meta": meta}, "start.pth")
        return str(caught.value)

    shallow, deep = small(18), small(34)
    check_start([shallow], {"state_dict": shallow.state_dict()}, "start.pth")
    check_start([shallow], {**shallow.state_dict(), "fc.weight": torch.ones(2)}, "torchvision's")
    other = "start.pth is a checkpoint of another architecture than this ResNet: "
    assert told([shallow], deep.state_dict()).startswith(other + "96 unexpected (layer1.2.conv1.w")
    assert told([deep], shallow.state_dict()).startswith(other + "80 missing (layer1.2.conv1.wei")
    assert " of another shape " in told([small(50)], ResNet(50).state_dict())
    deep_stem = small(18, ResNetV1c)
    assert " missing (conv1.weight, " in told([shallow], deep_stem.state_dict())
    assert "unexpected (stem.0.conv.weight" in told([shallow], deep_stem.state_dict())
    assert "unexpected (conv1.weight" in told([deep_stem], shallow.state_dict())
    whole = {f"backbone.{name}": value for name, value in shallow.state_dict().items()}
    assert told([shallow], whole).endswith("out with `mmsalmask export`")
    assert told([shallow], shallow.state_dict(), style="caffe").startswith(
        "start.pth is a ResNet of style 'caffe', this ResNet one of style 'pytorch'"
    )


def test_modules_may_share_a_file_and_add_to_a_plain_resnet():
    net = small(18)
    state = net.state_dict()
    names = ("conv1", "bn1", "layer1", "layer2", "layer3")
    first = torch.nn.ModuleDict({name: getattr(net, name) for name in names})
    last = torch.nn.ModuleDict({"layer4": net.layer4, "norm": torch.nn.BatchNorm2d(64)})
    check_start([first, last], state, "start.pth")
    with pytest.raises(InputError, match=r"unexpected \(layer4\.0\.conv1\.weight"):
        check_start([first], state, "start.pth")
    del state["layer4.0.conv1.weight"]
    with pytest.raises(InputError, match=r"1 missing \(layer4\.0\.conv1\.weight\)$"):
        check_start([first, last], state, "start.pth")


def test_a_net_without_a_resnets_names_is_judged_by_our_own_files_alone():
    net, state = torch.nn.Linear(2, 2), {"weight": torch.ones(2, 2)}
    check_start([net], {"state_dict": state, "meta": {}}, "somebody's.pth")
    with pytest.raises(InputError, match=r"than this Linear: 1 missing \(bias\)$"):
        check_start([net], {"state_dict": state, "meta": {"mmsalmask_version": "1"}}, "ours.pth")


# Names of other libraries


def detectron2_resnet50():
    """Names and shapes that detectron2's ResNet-50 expects, layer by layer."""
    names = {}

    def conv(name, channels, inputs, size):
        names[f"{name}.weight"] = (channels, inputs, size, size)
        for part in ("weight", "bias", "running_mean", "running_var"):
            names[f"{name}.norm.{part}"] = (channels,)

    conv("stem.conv1", 64, 3, 7)
    inputs = 64
    for stage, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], start=2):
        for block in range(blocks):
            if block == 0:
                conv(f"res{stage}.0.shortcut", 4 * width, inputs, 1)
            conv(f"res{stage}.{block}.conv1", width, inputs, 1)
            conv(f"res{stage}.{block}.conv2", width, width, 3)
            conv(f"res{stage}.{block}.conv3", 4 * width, width, 1)
            inputs = 4 * width
    return names


def test_a_resnet50_gets_exactly_detectron2s_names():
    state = ResNet(50).state_dict()
    converted = to_detectron2(state)
    expected = detectron2_resnet50()
    assert len(expected) == 265
    assert {name: tuple(value.shape) for name, value in converted.items()} == expected
    assert converted["res4.5.conv3.norm.weight"] is state["layer3.5.bn3.weight"]
    assert converted["res5.0.shortcut.weight"] is state["layer4.0.downsample.0.weight"]
    assert converted["stem.conv1.norm.running_var"] is state["bn1.running_var"]


def test_torchvisions_resnet_loads_what_is_named_for_it():
    torch.manual_seed(0)
    state = to_torchvision(ResNet(50).state_dict())
    found = torchvision.models.resnet50().load_state_dict(state, strict=False)
    assert not found.unexpected_keys
    assert set(found.missing_keys) == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("convert", [to_torchvision, to_detectron2])
@pytest.mark.parametrize(
    ("net", "lost"),
    [
        (lambda: ResNetV1c(depth=18), r"18 of 132 tensors, .*: stem\.0\.conv\.weight, "),
        (lambda: ResNetV1d(depth=18), r"stem\.0\.conv\.weight, "),
        (
            lambda: ResNet(18, norm_cfg={"type": "GN", "num_groups": 8}),
            r"34 of 60 .*: gn1\.weight, ",
        ),
        (lambda: ConvNeXt("atto"), r"downsample_layers\.0\.0\.weight, .* more"),
    ],
)
def test_what_another_library_cannot_hold_is_refused_with_the_list(convert, net, lost):
    with pytest.raises(InputError, match=rf"has no place for .*{lost}"):
        convert(net().state_dict())


# Writing


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_written_backbone_is_read_back_with_its_metadata(tmp_path, suffix):
    state = ConvNeXt("atto").state_dict()
    path = tmp_path / "new" / f"a{suffix}"
    save_backbone(state, path, "openmmlab", {"high_pass": "true"})
    checkpoint = load_checkpoint(path)
    assert checkpoint["meta"] == {"high_pass": "true", "naming": "openmmlab"}
    read = backbone_state(checkpoint)
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], value) for name, value in state.items())
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_view_of_a_large_tensor_is_written_without_the_rest(tmp_path):
    large = torch.rand(1_000_000)
    save_backbone({"conv1.weight": large[:8].view(8, 1, 1, 1)}, tmp_path / "a.pth", "openmmlab", {})
    assert (tmp_path / "a.pth").stat().st_size < 10_000
    picture = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    save_backbone({"conv1.weight": picture}, tmp_path / "a.safetensors", "torchvision", {})
    assert torch.equal(load_file(tmp_path / "a.safetensors")["conv1.weight"], picture)


def test_detectron2s_pickle_holds_numpy_arrays_and_its_wrapper(tmp_path):
    state = ResNet(18).state_dict()
    save_backbone(state, tmp_path / "a.pkl", "detectron2", {"epoch": "1"})
    content = pickle.loads((tmp_path / "a.pkl").read_bytes(), encoding="latin1")
    assert content["matching_heuristics"] is True
    assert isinstance(content["__author__"], str)
    expected = to_detectron2(state)
    assert content["model"].keys() == expected.keys()
    for name, value in content["model"].items():
        assert type(value) is np.ndarray
        np.testing.assert_array_equal(value, expected[name].numpy())
    save_backbone(state, tmp_path / "a.pth", "detectron2", {"epoch": "1"})
    assert torch.load(tmp_path / "a.pth", weights_only=True)["matching_heuristics"] is True


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    path.write_text("old")

    def full_disk(number):
        os.ftruncate(number, os.fstat(number).st_size // 2)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmsalmask.files.os.fsync", full_disk)
    with pytest.raises(InputError, match=r"could not write .*a\.pth .*No space left"):
        save_backbone({"conv1.weight": torch.ones(1)}, path, "openmmlab", {})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match=r"cannot write a\.pkl for openmmlab"):
        save_backbone({"conv1.weight": torch.ones(1)}, tmp_path / "a.pkl", "openmmlab", {})


# Where a backbone comes from


def test_a_runs_checkpoint_describes_itself_and_its_export_passes_that_on(run, tmp_path):
    _, path = run
    checkpoint = load_checkpoint(path)
    facts = describe(checkpoint, path)
    sha = facts.pop("source_sha256")
    assert re.fullmatch("[0-9a-f]{64}", sha)
    version = facts.pop("mmsalmask_version")
    assert version
    assert facts == {
        "source": "epoch_1.pth",
        "model": "mmpretrain.MoCo",
        "backbone": "ResNet",
        "depth": "18",
        "style": "pytorch",
        "high_pass": "false",
        "epoch": "1",
        "iter": "2",
    }
    copy = tmp_path / "copy.safetensors"
    save_backbone(
        backbone_state(checkpoint), copy, "openmmlab", {**facts, "mmsalmask_version": "0"}
    )
    again = describe(load_checkpoint(copy), copy)
    assert {name: again[name] for name in facts if name != "source"} == {
        name: value for name, value in facts.items() if name != "source"
    }
    assert again["source"] == copy.name
    assert again["source_sha256"] != sha


class HighPassByNameAlone(Strategy):
    """A strategy of somebody else's, whose name tells nothing of what it does."""

    def fill(self, view, generator):
        return view.seen.flip(3)


class Edges(HighPassByNameAlone):
    filters = True


@pytest.mark.parametrize(
    ("strategy", "told"),
    [("Edges", "true"), ("mine.HighPassByNameAlone", "false"), ("NotImportedHere", "unknown")],
)
def test_a_strategy_says_itself_whether_it_filters(tmp_path, strategy, told):
    (tmp_path / "a").touch()
    masker = {"type": "mmsalmask.SaliencyMasker", "strategy": {"type": strategy}}
    text = Config({"model": {"data_preprocessor": {"masker": masker}}}).pretty_text
    checkpoint = {"meta": {"cfg": text}, "state_dict": {}}
    assert describe(checkpoint, tmp_path / "a")["high_pass"] == told


@pytest.mark.parametrize(
    ("config", "high_pass"),
    [
        ({"model": {"type": "A", "data_preprocessor": {"strategy": {"type": "HighPassNoise"}}}}, 1),
        ({"model": {"m": [({"type": "mmsalmask.masking.HighPassNoise"},)]}}, 1),
        ({"model": {}, "data_preprocessor": {"a": {"type": "mmsalmask.HighPassNoise"}}}, 1),
        ({"model": {}, "train_dataloader": {"p": [{"type": "mmsalmask.HighPassFilter"}]}}, 1),
        ({"model": {}, "test_dataloader": {"p": [{"type": "mmsalmask.HighPassFilter"}]}}, 0),
        ({"model": {"strategy": {"type": "StrongBlur", "note": "HighPassNoise"}}}, 0),
    ],
)
def test_the_high_pass_strategy_is_found_in_the_config_text(tmp_path, config, high_pass):
    (tmp_path / "a").touch()
    text = Config(config).pretty_text
    assert read_config(text) == config
    checkpoint = {"meta": {"cfg": text}, "state_dict": {}}
    assert describe(checkpoint, tmp_path / "a")["high_pass"] == str(bool(high_pass)).lower()


def checkpoint_of(high_pass, exported):
    """A checkpoint that says whether its encoder saw filtered images, or (None) says nothing."""
    if high_pass is None:
        return {"state_dict": {}}
    if exported:
        return {"state_dict": {}, "meta": {"high_pass": str(high_pass).lower()}}
    pipeline = [dict(type="mmsalmask.HighPassFilter")] if high_pass else []
    config = {"model": {"type": "MoCo"}, "train_dataloader": {"dataset": {"pipeline": pipeline}}}
    return {"state_dict": {}, "meta": {"cfg": Config(config).pretty_text}}


@pytest.mark.parametrize("exported", [True, False])
@pytest.mark.parametrize("learned", [True, False, None])
def test_a_filter_other_than_in_pretraining_is_warned_of(caplog, learned, exported):
    checkpoint = checkpoint_of(learned, exported)
    assert saw_high_pass(checkpoint) is learned
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        for given in (True, False):
            warn_if_filter_differs(checkpoint, "a.pth", {"test_dataloader": given})
        warn_if_filter_differs(checkpoint, "b.pth", {"training": True, "testing": False})
    finally:
        logger.removeHandler(caplog.handler)
    told = [record.getMessage() for record in caplog.records]
    if learned is None:
        assert told == []
        return
    first, second = told
    kind, wrong = ("HIGH-PASS FILTERED", "testing") if learned else ("PLAIN", "training")
    assert first.startswith(f"a.pth LEARNED FROM {kind} IMAGES, but those of test_dataloader are ")
    assert second.startswith(f"b.pth LEARNED FROM {kind} IMAGES, but those of {wrong} are ")


@pytest.mark.parametrize(
    "text",
    [
        "import os\nmodel = dict()",
        "model = dict(a=__import__('os').mkdir('{mark}'))",
        "model = [os.mkdir('{mark}') for _ in 'a']",
        "model = dict(**dict(a=1))",
        "model = {**dict(a=1)}",
        "a.model = 1",
        "model = (",
        "model = '\0'",
        "model = " + "(" * 5000 + ")" * 5000,
    ],
)
def test_a_config_text_with_code_is_not_executed_and_tells_nothing(tmp_path, text):
    mark = tmp_path / "ran"
    assert read_config(text.replace("{mark}", str(mark))) == {}
    assert not mark.exists()
    (tmp_path / "a").touch()
    facts = describe({"meta": {"cfg": text}}, tmp_path / "a")
    assert facts["high_pass"] == facts["model"] == "unknown"


# The localizer


def test_the_localizer_is_built_from_a_config_and_has_the_checkpoints_weights(run):
    model, path = run
    config = {
        "type": "mmsalmask.BackboneSaliency",
        "backbone": TINY_RESNET,
        "checkpoint": str(path),
    }
    from mmsalmask.algorithms import localizers  # noqa: F401

    localizer = MODELS.build(config)
    assert isinstance(localizer, BackboneSaliency)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        saliency = localizer.eval()(images)
        features = evaluating(model.backbone)(images)[-1]
    torch.testing.assert_close(saliency, features.sum(1))
    with pytest.raises(InputError, match="another architecture"):
        MODELS.build({**config, "backbone": {"type": "ResNet", "depth": 18}})
    del config["checkpoint"]
    with pytest.raises(TypeError, match="checkpoint"):
        MODELS.build(config)
