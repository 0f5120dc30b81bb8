"""torchvision's and timm's ConvNets as backbones."""

import pytest
import torch
import torchvision
from torch import nn

from mmsalmask.algorithms.torchvision_backbone import TorchvisionBackbone, convnets
from mmsalmask.api.backbones import channels_of
from mmsalmask.errors import InputError


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1"]
)
def test_the_pooled_map_of_a_torchvision_net_is_what_its_classifier_reads(name):
    backbone = TorchvisionBackbone(name).eval()
    whole = torchvision.models.get_model(name, weights=None).eval()
    missing, unexpected = whole.load_state_dict(backbone.net.state_dict(), strict=False)
    assert not unexpected
    assert all(key.startswith(("fc.", "classifier.")) for key in missing)
    head = whole.fc if hasattr(whole, "fc") else whole.classifier
    read = []
    head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        (found,) = backbone(images)
        whole(images)
    assert found.ndim == 4
    wanted = read[0].mean((2, 3)) if read[0].ndim == 4 else read[0]
    torch.testing.assert_close(found.mean((2, 3)), wanted)


def test_a_torchvision_backbone_learns():
    backbone = TorchvisionBackbone("mobilenet_v3_small").train()
    backbone(torch.randn(2, 3, 64, 64))[0].square().mean().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_the_names_are_those_of_convnets():
    names = convnets()
    assert {"resnet50", "convnext_tiny", "efficientnet_b0", "densenet121"} <= set(names)
    assert not [name for name in names if "vit" in name or "swin" in name]


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(InputError, match=r"no ConvNet named 'resnet5': did you mean 'resnet50'"):
        TorchvisionBackbone("resnet5")


def test_a_backbone_that_takes_one_size_alone_is_told():
    class Patches(nn.Module):
        def forward(self, images):
            raise AssertionError("Input height (128) doesn't match model (224).")  # as timm's do

    with pytest.raises(InputError, match=r"takes no images of 128 px \(Input height.*ConvNets"):
        channels_of(Patches())
