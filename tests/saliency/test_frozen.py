"""A frozen localizer is invisible to the model that holds it, and nothing can train it."""

import copy

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from mmsalmask.errors import InputError
from mmsalmask.saliency import BackboneSaliency, Frozen


class Model(nn.Module):
    def __init__(self, localizer):
        super().__init__()
        self.encoder = nn.Conv2d(3, 4, 3)
        self.localizer = localizer


@pytest.fixture(scope="module")
def trunk():
    torch.manual_seed(0)
    return nn.Sequential(*list(resnet18().children())[:-2])


def test_a_model_registers_nothing_of_it(trunk):
    model = Model(Frozen(BackboneSaliency(copy.deepcopy(trunk))))
    names = {"encoder.weight", "encoder.bias"}
    assert set(model.state_dict()) == names
    assert {name for name, _ in model.named_parameters()} == names
    assert {name for name, _ in model.named_modules()} == {"", "encoder"}
    assert not list(model.buffers())


def test_training_the_model_leaves_it_untouched(trunk):
    backbone = copy.deepcopy(trunk)
    model = Model(Frozen(BackboneSaliency(backbone)))
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model.train()
    images = torch.randn(2, 3, 64, 64, requires_grad=True)
    saliency = model.localizer(images)
    (model.encoder(images).mean() * saliency.mean()).backward()
    optimizer.step()
    assert not saliency.requires_grad
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_train_mode_from_outside_does_not_survive_a_call(trunk):
    """Even a single BatchNorm switched deep inside, which the root's own flag does not show."""
    backbone = copy.deepcopy(trunk)
    frozen = Frozen(BackboneSaliency(backbone))
    images = torch.randn(2, 3, 64, 64)
    expected = frozen(images)
    backbone[1].train()
    backbone[5].train()
    before = backbone[1].running_mean.clone()
    assert torch.equal(frozen(images), expected)
    assert torch.equal(backbone[1].running_mean, before)
    assert not any(module.training for module in frozen.module.modules())


def test_the_reference_would_notice_a_registered_localizer(trunk):
    """The same localizer held as a module does train along: what the tests above guard against."""
    backbone = copy.deepcopy(trunk)
    model = Model(BackboneSaliency(backbone)).train()
    before = backbone[1].running_mean.clone()
    model.localizer(torch.randn(2, 3, 64, 64))
    assert not torch.equal(backbone[1].running_mean, before)
    assert len(model.state_dict()) > 2


def test_it_returns_float32_and_moves_only_when_the_device_changes():
    class Counting(nn.Module):
        moves = 0

        def to(self, *args, **kwargs):
            self.moves += 1
            return super().to(*args, **kwargs)

        def forward(self, images):
            return images.mean(1)

    frozen = Frozen(Counting())
    for _ in range(3):
        assert frozen(torch.rand(2, 3, 8, 8, dtype=torch.bfloat16)).dtype == torch.float32
    assert frozen.module.moves == 1
    assert frozen(torch.rand(2, 3, 8, 8, device="meta")).device.type == "meta"
    assert frozen.module.moves == 2


@pytest.mark.gpu
def test_it_follows_the_images_to_cuda_and_back(trunk):
    frozen = Frozen(BackboneSaliency(copy.deepcopy(trunk)))
    images = torch.randn(2, 3, 64, 64)
    expected = frozen(images)
    torch.testing.assert_close(frozen(images.cuda()).cpu(), expected, rtol=1e-2, atol=1e-1)
    assert torch.equal(frozen(images), expected)


def test_something_that_is_no_module_is_refused():
    with pytest.raises(InputError, match="got dict"):
        Frozen({"type": "ResNet"})
