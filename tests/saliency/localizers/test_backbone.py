"""What a trained backbone responds to: the sum of its channels, and the options for speed."""

import copy

import numpy as np
import pytest
import references
import torch
from torch import nn
from torchvision.models import resnet18

from mmsalmask.errors import InputError
from mmsalmask.saliency import BackboneSaliency


def reference(localizer, views, crops, grid):
    features = localizer.backbone(torch.from_numpy(views)).numpy()
    summed = [sum(channel for channel in image) for image in features]
    return np.stack([references.pool(saliency, grid) for saliency in summed])


class Stages(nn.Module):
    """A backbone that returns several maps, as mmpretrain's do."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(3, 5, 3, stride=2, padding=1)

    def forward(self, images):
        return self.kind([images, self.conv(images)])


@pytest.mark.parametrize("kind", [tuple, list, lambda maps: maps[-1]])
def test_backbone_saliency_is_the_channel_sum_of_the_last_map(kind):
    backbone = Stages(kind)
    images = torch.randn(2, 3, 9, 12)
    features = backbone.conv(images)
    expected = torch.zeros(2, 5, 6)
    for channel in range(5):
        expected += features[:, channel]
    torch.testing.assert_close(BackboneSaliency(backbone)(images), expected)


@torch.no_grad()
def test_backbone_saliency_of_a_resnet_has_a_stride_of_32():
    torch.manual_seed(0)
    trunk = nn.Sequential(*list(resnet18().children())[:-2]).eval()
    images = torch.randn(1, 3, 100, 65)
    saliency = BackboneSaliency(trunk)(images)
    assert saliency.shape == (1, 4, 3)
    torch.testing.assert_close(saliency, trunk(images).sum(1))


@torch.no_grad()
def test_backbone_saliency_takes_half_images_and_sums_half_features_in_float32():
    localizer = BackboneSaliency(Stages(tuple))
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(localizer(images.half()), localizer(images.half().float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = localizer.backbone(images)[-1]
        actual = localizer(images)
    assert features.dtype == torch.bfloat16
    torch.testing.assert_close(actual, features.float().sum(1), rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def trunk():
    torch.manual_seed(0)
    return nn.Sequential(*list(resnet18().children())[:-2]).eval()


@torch.no_grad()
def test_a_reduced_size_changes_what_the_backbone_sees_and_not_the_maps_cells(trunk):
    localizer, seen = BackboneSaliency(copy.deepcopy(trunk), size=96), []
    localizer.backbone.register_forward_hook(lambda _, images, __: seen.append(images[0].shape))
    saliency = localizer(torch.randn(2, 3, 128, 192))
    assert seen == [(2, 3, 64, 96)]
    assert saliency.shape == (2, 4, 6)
    small = torch.randn(2, 3, 64, 96)
    assert torch.equal(localizer(small), BackboneSaliency(trunk)(small))  # nothing is enlarged


@torch.no_grad()
def test_a_reduced_size_sees_the_mean_of_the_pixels():
    """Of stripes one pixel wide only their mean is left, not every second one."""
    localizer = BackboneSaliency(nn.Identity(), size=8)
    stripes = torch.zeros(1, 3, 32, 32)
    stripes[..., ::2] = 1
    torch.testing.assert_close(localizer(stripes)[..., 8:-8], torch.full((1, 32, 16), 1.5))


@torch.no_grad()
def test_channels_last_is_the_same_map(trunk):
    localizer = BackboneSaliency(copy.deepcopy(trunk), channels_last=True)
    formats = []
    localizer.backbone[0].register_forward_hook(
        lambda _, images, out: formats.append((images[0], out))
    )
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(
        localizer(images), BackboneSaliency(trunk)(images), rtol=1e-4, atol=1e-4
    )
    assert all(part.is_contiguous(memory_format=torch.channels_last) for part in formats[0])


@torch.no_grad()
def test_a_dtype_decides_over_autocast_and_without_one_training_does(trunk):
    images = torch.randn(1, 3, 64, 64)
    plain, dtypes = BackboneSaliency(trunk)(images), {}
    for dtype in (None, "float32", "bfloat16"):
        localizer = BackboneSaliency(copy.deepcopy(trunk), dtype=dtype)
        localizer.backbone[0].register_forward_hook(
            lambda _, __, out, dtype=dtype: dtypes.setdefault(dtype, []).append(out.dtype)
        )
        found = localizer(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            under = localizer(images)
        assert found.dtype == under.dtype == torch.float32
        torch.testing.assert_close(found, plain, rtol=0.05, atol=0.05 * plain.abs().max().item())
    full, half = torch.float32, torch.bfloat16
    assert dtypes == {None: [full, half], "float32": [full, full], "bfloat16": [half, half]}


def test_options_that_mean_nothing_are_refused():
    with pytest.raises(InputError, match="size is the longer side in pixels"):
        BackboneSaliency(nn.Identity(), size=0)
    with pytest.raises(InputError, match="dtype must be 'float32', 'float16' or 'bfloat16'"):
        BackboneSaliency(nn.Identity(), dtype="half")


@torch.no_grad()
@pytest.mark.parametrize("bad", [lambda x: x.mean((2, 3)), lambda x: (), lambda x: {"a": x}])
def test_a_backbone_that_returns_no_maps_is_refused(bad):
    class Wrong(nn.Module):
        def forward(self, images):
            return bad(images)

    with pytest.raises(InputError, match=r"must return feature maps \(N, C, h, w\)"):
        BackboneSaliency(Wrong())(torch.zeros(1, 3, 8, 8))
