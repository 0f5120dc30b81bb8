"""Other people's checkpoints: after conversion mmpretrain's ResNet computes what theirs does."""

import argparse
from collections.abc import Callable

import pytest
import torch
import torchvision
from mmpretrain.models import MobileNetV2, ResNet, ResNetV1d
from torch import Tensor, nn

from mmsalmask.checkpoint import check_matches, check_start, find_backbone, load_checkpoint
from mmsalmask.errors import InputError

State = dict[str, Tensor]


def theirs(name: str, seed: int, **settings) -> nn.Module:
    """torchvision's net with random weights and statistics of BatchNorm, in eval mode."""
    torch.manual_seed(seed)
    net = getattr(torchvision.models, name)(num_classes=8, **settings)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return net.eval()


NETS = {depth: theirs(f"resnet{depth}", seed=0) for depth in (18, 50)}
MOMENTUM = {depth: theirs(f"resnet{depth}", seed=1) for depth in (18, 50)}


def prefixed(prefix: str, state: State, without: str = "-") -> State:
    return {prefix + k: v for k, v in state.items() if not k.startswith(without)}


def mlp(name: str) -> State:
    return {f"{name}.0.weight": torch.rand(8, 8), f"{name}.2.weight": torch.rand(8, 8)}


def trunk(net: nn.Module) -> State:
    return prefixed("", net.state_dict(), without="fc.")


def moco(net: nn.Module, other: nn.Module) -> dict:
    """facebookresearch/moco: two nets with their MLP in fc, wrapped by DistributedDataParallel."""
    query, key = ({**trunk(each), **mlp("fc")} for each in (net, other))
    state = prefixed("module.encoder_k.", key) | prefixed("module.encoder_q.", query)
    state |= {"module.queue": torch.rand(8, 4), "module.queue_ptr": torch.zeros(1).long()}
    return {"epoch": 200, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {}}}


def moco_v3(net: nn.Module, other: nn.Module) -> dict:
    state = prefixed("module.base_encoder.", {**trunk(net), **mlp("fc")})
    state |= prefixed("module.momentum_encoder.", {**trunk(other), **mlp("fc")})
    return {"epoch": 300, "state_dict": state | prefixed("module.", mlp("predictor"))}


def simsiam(net: nn.Module, other: nn.Module) -> dict:
    state = prefixed("module.encoder.", {**trunk(net), **mlp("fc")})
    return {"state_dict": state | prefixed("module.", mlp("predictor"))}


def solo_learn(net: nn.Module, other: nn.Module) -> dict:
    """A Lightning checkpoint, in which fc is an identity."""
    state = prefixed("momentum_backbone.", trunk(other)) | prefixed("backbone.", trunk(net))
    state |= mlp("projector") | mlp("momentum_projector") | {"classifier.weight": torch.rand(8, 8)}
    state |= {"queue": torch.rand(2, 4, 8)}
    lightning = {"pytorch-lightning_version": "2.0", "global_step": 7, "callbacks": {}, "loops": {}}
    return {**lightning, "state_dict": state, "hyper_parameters": {"lr": 0.3}}


def old_solo_learn(net: nn.Module, other: nn.Module) -> dict:
    state = prefixed("encoder.", trunk(net)) | prefixed("momentum_encoder.", trunk(other))
    return {"state_dict": state | mlp("projector") | {"classifier.weight": torch.rand(8, 8)}}


def numbered(net: nn.Module) -> State:
    """What lightly's examples make: a Sequential of the children but the last, fc."""
    return nn.Sequential(*list(net.children())[:-1]).state_dict()


def lightly(net: nn.Module, other: nn.Module) -> dict:
    state = prefixed("backbone.", numbered(net)) | mlp("projection_head.layers")
    state |= prefixed("backbone_momentum.", numbered(other))
    return {"state_dict": state | mlp("projection_head_momentum.layers")}


def lightly_by_names(net: nn.Module, other: nn.Module) -> dict:
    state = prefixed("backbone.", trunk(net)) | prefixed("backbone_momentum.", trunk(other))
    return {"state_dict": state | mlp("projection_head.layers")}


def lightly_student(net: nn.Module, other: nn.Module) -> dict:
    state = prefixed("teacher_backbone.", numbered(other)) | mlp("student_head.layers")
    return {"state_dict": state | prefixed("student_backbone.", numbered(net))}


def mmselfsup(net: nn.Module, other: nn.Module) -> dict:
    """MoCo of version 0.x has the query's backbone twice."""
    state = prefixed("encoder_q.0.", trunk(net)) | prefixed("backbone.", trunk(net))
    state |= prefixed("encoder_k.0.", trunk(other)) | mlp("neck.mlp") | {"queue": torch.rand(4, 8)}
    return {"meta": {"mmselfsup_version": "0.9", "epoch": 200}, "state_dict": state}


def mmpretrain(net: nn.Module, other: nn.Module) -> dict:
    state = prefixed("backbone.", trunk(net)) | {"head.fc.weight": torch.rand(8, 8)}
    return {"meta": {"epoch": 100}, "state_dict": state}


def torchvision_or_timm(net: nn.Module, other: nn.Module) -> dict:
    return net.state_dict()


def timms_training(net: nn.Module, other: nn.Module) -> dict:
    arguments = argparse.Namespace(model="resnet50", lr=0.1)
    return {"epoch": 3, "arch": "resnet50", "state_dict": net.state_dict(), "args": arguments}


def barlow_twins(net: nn.Module, other: nn.Module) -> dict:
    state = prefixed("module.backbone.", trunk(net)) | prefixed("module.", mlp("projector"))
    return {"epoch": 1000, "model": state, "optimizer": {}}


def swav(net: nn.Module, other: nn.Module) -> dict:
    heads = mlp("projection_head") | {"prototypes.weight": torch.rand(8, 8)}
    return prefixed("module.", trunk(net) | heads)


def dino(net: nn.Module, other: nn.Module) -> dict:
    nets = {"student": prefixed("module.backbone.", trunk(other)) | mlp("module.head.mlp")}
    nets["teacher"] = prefixed("backbone.", trunk(net)) | mlp("head.mlp")
    return {**nets, "epoch": 800, "args": argparse.Namespace(arch="resnet50")}


def tutorial(net: nn.Module, other: nn.Module) -> dict:
    """As PyTorch's tutorials save a model beside its optimizer."""
    return {"epoch": 3, "model_state_dict": net.state_dict(), "optimizer_state_dict": {}}


def parallel_backbone(net: nn.Module, other: nn.Module) -> dict:
    """DataParallel around the backbone alone."""
    state = prefixed("backbone.", nn.DataParallel(net).state_dict()) | mlp("projection_head")
    return {"state_dict": state}


def compiled_backbone(net: nn.Module, other: nn.Module) -> dict:
    state = prefixed("module.encoder_q._orig_mod.", {**trunk(net), **mlp("fc")})
    return {"state_dict": state | prefixed("module.encoder_k._orig_mod.", trunk(other))}


LAYOUTS = {
    tutorial: ("torchvision", ["fc"]),
    parallel_backbone: ("lightly", ["backbone", "projection_head"]),
    compiled_backbone: ("MoCo", ["encoder_k", "encoder_q"]),
    moco: ("MoCo", ["encoder_k", "encoder_q", "queue", "queue_ptr"]),
    moco_v3: ("MoCo v3", ["base_encoder", "momentum_encoder", "predictor"]),
    simsiam: ("SimSiam", ["encoder", "predictor"]),
    solo_learn: (
        "solo-learn",
        ["classifier", "momentum_backbone", "momentum_projector", "projector", "queue"],
    ),
    old_solo_learn: ("solo-learn", ["classifier", "momentum_encoder", "projector"]),
    lightly: ("lightly", ["backbone_momentum", "projection_head", "projection_head_momentum"]),
    lightly_by_names: ("lightly", ["backbone_momentum", "projection_head"]),
    lightly_student: ("lightly", ["student_head", "teacher_backbone"]),
    mmselfsup: ("OpenMMLab", ["encoder_k", "encoder_q", "neck", "queue"]),
    mmpretrain: ("OpenMMLab", ["head"]),
    torchvision_or_timm: ("torchvision", ["fc"]),
    timms_training: ("torchvision", ["fc"]),
    barlow_twins: ("Barlow Twins", ["projector"]),
    swav: ("torchvision", ["projection_head", "prototypes"]),
    dino: ("DINO", ["head"]),
}


@pytest.mark.parametrize(
    ("layout", "depth"),
    [*((layout, 18) for layout in LAYOUTS), (moco, 50), (lightly, 50), (torchvision_or_timm, 50)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_foreign_resnet_computes_the_same_after_conversion(tmp_path, layout: Callable, depth):
    whose, left_over = LAYOUTS[layout]
    torch.save(layout(NETS[depth], MOMENTUM[depth]), tmp_path / "theirs.pth.tar")
    found = find_backbone(load_checkpoint(tmp_path / "theirs.pth.tar"))
    assert found.whose == whose
    assert sorted({name.partition(".")[0] for name in found.left_over}) == left_over
    ours = ResNet(depth)
    check_matches(ours, found.state, "theirs")
    ours.load_state_dict(found.state)
    ours.eval()
    images = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    features = nn.Sequential(*list(NETS[depth].children())[:-2])
    with torch.no_grad():
        torch.testing.assert_close(ours(images)[-1], features(images))
        other = nn.Sequential(*list(MOMENTUM[depth].children())[:-2])(images)
    assert not torch.allclose(ours(images)[-1], other, rtol=0.1), "the nets can be told apart"


def test_torchvisions_mobilenet_computes_the_same_after_conversion():
    net = theirs("mobilenet_v2", seed=0, width_mult=0.25)
    found = find_backbone(net.state_dict())
    assert (found.whose, found.left_over) == (
        "torchvision",
        ["classifier.1.weight", "classifier.1.bias"],
    )
    ours = MobileNetV2(widen_factor=0.25)
    check_matches(ours, found.state, "theirs")
    ours.load_state_dict(found.state)
    ours.eval()
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(images)[-1], net.features(images))


@pytest.mark.parametrize("name", ["vgg11", "mobilenet_v3_small", "densenet121", "efficientnet_b0"])
def test_other_nets_whose_tensors_are_features_are_refused(name):
    with torch.device("meta"):
        state = getattr(torchvision.models, name)().state_dict()
    with pytest.raises(InputError, match="holds no backbone: its keys begin with classifier, feat"):
        find_backbone(state)


def test_nothing_is_lost_without_being_listed():
    content = moco(NETS[18], MOMENTUM[18])
    found = find_backbone(content)
    assert found.prefix == "module.encoder_q."
    assert len(found.state) + len(found.left_over) == len(content["state_dict"])
    assert found.listing() == (
        "encoder_k (122 tensors), encoder_q (2 tensors), queue (1 tensor), queue_ptr (1 tensor)"
    )
    # A tensor outside is not taken for the one of the same name within.
    stray = {"state_dict": {**mmpretrain(NETS[18], NETS[18])["state_dict"], "conv1.weight": 0}}
    assert find_backbone(stray).left_over == ["head.fc.weight", "conv1.weight"]


def deep_stem(state: State) -> State:
    """timm's resnet18d: three convolutions, pooling before a 1×1 convolution in shortcuts."""
    del state["conv1.weight"]
    return {**state, "conv1.0.weight": torch.rand(32, 3, 3, 3)}


def pooled_shortcuts(state: State) -> State:
    names = {"0.weight": "1.weight", **{f"1.{part}": f"2.{part}" for part in ("weight", "bias")}}
    kept = {name: value for name, value in state.items() if ".downsample." not in name}
    for name in sorted(state.keys() - kept.keys()):
        block, _, part = name.partition(".downsample.")
        if part in names:
            kept[f"{block}.downsample.{names[part]}"] = state[name]
    return kept


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            deep_stem,
            r"a deep stem of several convolutions \(conv1\.0\.weight\), as timm's resnet50",
        ),
        (
            pooled_shortcuts,
            r"pooling in its shortcuts \(layer1\.0\.downsample\.1\.weight is a conv",
        ),
    ],
)
@pytest.mark.parametrize("layout", ["", "module.encoder_q.", "backbone."])
def test_resnets_of_timm_that_would_compute_something_else_are_refused(change, words, layout):
    state = prefixed(layout, change(trunk(NETS[50])))
    with pytest.raises(InputError, match=rf"has {words}.*: only ResNets with one 7×7"):
        find_backbone({"state_dict": state})


def test_mmpretrains_own_deep_stem_is_known():
    net = ResNetV1d(depth=50, stem_channels=8, base_channels=8)
    state = prefixed("backbone.", net.state_dict())
    check_matches(net, find_backbone({"state_dict": state}).state, "own")


def test_lightlys_resnet_for_small_images_is_no_torchvision_net():
    """It has neither ReLU nor pooling among its children: layer1 is number 2, not 4."""
    state = {f"backbone.{i}.0.conv1.weight": torch.rand(8, 8, 3, 3) for i in range(2, 6)}
    state |= {"backbone.0.weight": torch.rand(8, 3, 3, 3), "backbone.1.weight": torch.rand(8)}
    found = find_backbone({"state_dict": state})
    with pytest.raises(InputError, match="another architecture than this ResNet"):
        check_matches(ResNet(18), found.state, "small")


def test_a_net_that_starts_from_a_whole_foreign_checkpoint_is_told_to_export_it():
    for layout in (moco, solo_learn, lightly, swav):
        with pytest.raises(InputError, match=r"more than a backbone.*mmsalmask export"):
            check_start([ResNet(18)], layout(NETS[18], MOMENTUM[18]), "theirs.pth")
    check_start([ResNet(18)], NETS[18].state_dict(), "resnet18.pth")


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("place", ["args", "state_dict"])
def test_a_foreign_checkpoint_with_code_is_refused_and_not_run(tmp_path, place):
    content = {**moco(NETS[18], MOMENTUM[18]), "args": argparse.Namespace(lr=1)}
    if place == "args":
        content["args"].hidden = Attack(tmp_path / "ran")
    else:
        content["state_dict"]["module.encoder_q.more"] = Attack(tmp_path / "ran")
    torch.save(content, tmp_path / "theirs.pth.tar")
    with pytest.raises(InputError, match=r"contains code or objects \(\w+\.open\), refused"):
        load_checkpoint(tmp_path / "theirs.pth.tar")
    assert not (tmp_path / "ran").exists()


def test_a_namespace_is_read_as_an_inert_object(tmp_path):
    torch.save({"args": argparse.Namespace(lr=0.5)}, tmp_path / "theirs.pth")
    arguments = load_checkpoint(tmp_path / "theirs.pth")["args"]
    assert arguments.lr == 0.5
    assert not isinstance(arguments, argparse.Namespace)
