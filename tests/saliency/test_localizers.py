"""The localizers: shapes, invariances, degenerate images, and their score on real photos."""

import copy

import numpy as np
import pytest
import torch
from localizers import coco_photos, on_grid, roc_auc, score
from torch import nn
from torchvision.models import resnet18

from mmsalmask.errors import InputError
from mmsalmask.saliency import (
    BackboneSaliency,
    BoundaryPriorSaliency,
    SpectralResidualSaliency,
    centre_prior,
    foreground,
    pool_to_grid,
)

WEIGHT_FREE = [BoundaryPriorSaliency, SpectralResidualSaliency]


def scene(images=4, height=96, width=96, seed=0):
    """A textured, coloured square off the centre of a noisy gradient; values in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(0.2, 0.6, width).expand(images, 3, height, width)
    picture = ramp + 0.05 * torch.randn(images, 3, height, width, generator=generator)
    top, left = height // 2, width // 6
    patch = picture[:, :, top : top + height // 4, left : left + width // 4]
    patch[:, 0] += 0.3
    patch += 0.2 * torch.randn(patch.shape, generator=generator)
    return picture.clamp(0, 1)


def slow_border_distance(image, size):
    """log(1 + d²) of one (3, H, W) image, cell by cell in NumPy."""
    image = image.double().numpy()
    grey = image.mean(0)
    step = max(1, len(grey) // (2 * size))  # two pairs of neighbouring rows for each cell
    rows = grey[::step]
    pairs = [(grey[i], grey[i + 1]) for i in range(0, len(grey) - 1, step)]
    above, below = (np.stack(side) for side in zip(*pairs, strict=True))
    energies = [
        (rows[:, 1:] - rows[:, :-1]) ** 2,
        (below - above) ** 2,
        (below[:, 1:] - above[:, :-1]) ** 2,
        (below[:, :-1] - above[:, 1:]) ** 2,
    ]

    def cell_means(plane):
        rows, columns = plane.shape
        means = np.zeros((size, size))
        for i in range(size):
            for j in range(size):
                top, bottom = i * rows // size, -((i + 1) * rows // -size)
                left, right = j * columns // size, -((j + 1) * columns // -size)
                means[i, j] = plane[top:bottom, left:right].mean()
        return means

    planes = [cell_means(channel) for channel in image]
    for energy in map(cell_means, energies):
        planes.append(np.log(energy / energy.mean() + 0.3))
    planes = [(plane - plane.mean()) / plane.std(ddof=1) for plane in planes]
    band = max(1, round(size / 14))
    border = [
        (i, j)
        for i in range(size)
        for j in range(size)
        if min(i, j, size - 1 - i, size - 1 - j) < band
    ]
    known = np.array([[plane[place] for plane in planes] for place in border])
    covariance = np.cov(known.T, bias=True) + 0.01 * np.eye(7)
    inverse = np.linalg.inv(covariance)
    distance = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            away = np.array([plane[i, j] for plane in planes]) - known.mean(0)
            distance[i, j] = np.log1p(away @ inverse @ away)
    return torch.from_numpy(distance).float()


@pytest.mark.parametrize("size", [14, 28])
def test_the_border_distance_equals_the_formula_cell_by_cell(size):
    images = scene(3, 112, 84)
    localizer = BoundaryPriorSaliency(size)
    expected = torch.stack([slow_border_distance(image, size) for image in images])
    torch.testing.assert_close(localizer.border_distance(images), expected, rtol=1e-3, atol=2e-3)
    prior = centre_prior((size, size))
    torch.testing.assert_close(localizer(images), expected + prior, rtol=1e-3, atol=2e-3)


def test_the_spectral_residual_equals_the_formula_in_numpy():
    images = scene(3, 64, 64)
    expected = []
    for image in images.double().numpy():
        grey = image.mean(0)
        spectrum = np.fft.fft2(grey - grey.mean())
        spectrum[0, 0] = 0
        amplitude = np.abs(spectrum)
        floor = 1e-4 * amplitude.mean()
        log = np.log(amplitude + floor)
        shifts = [np.roll(log, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        weight = amplitude / (amplitude + floor)
        residual = np.exp(log - sum(shifts) / 9 + 1j * np.angle(spectrum)) * weight
        saliency = np.abs(np.fft.ifft2(residual)) ** 2
        for _ in range(3):
            blurred = np.zeros_like(saliency)
            for y in range(64):
                for x in range(64):
                    window = saliency[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
                    blurred[y, x] = window.mean()
            saliency = blurred
        expected.append(torch.from_numpy(saliency).float())
    actual = SpectralResidualSaliency()(images)
    torch.testing.assert_close(actual, torch.stack(expected), rtol=2e-3, atol=1e-7)


def test_the_odd_square_is_found():
    images = scene(8)
    inside = torch.zeros(8, 96, 96)
    inside[:, 48:72, 16:40] = 1
    truth = pool_to_grid(inside, 7) >= 0.5
    auc, counted = score(BoundaryPriorSaliency()(images), truth)
    assert counted == 8
    assert auc > 0.95
    assert auc > score(centre_prior((28, 28)).expand(8, -1, -1), truth)[0] + 0.1


def test_the_centre_prior_is_minus_the_squared_radius():
    prior = centre_prior((2, 4))
    expected = [[-(0.25 + x * x) for x in (-0.75, -0.25, 0.25, 0.75)]] * 2
    torch.testing.assert_close(prior, torch.tensor(expected))


@pytest.mark.parametrize("localizer", WEIGHT_FREE)
@pytest.mark.parametrize("size", [(96, 96), (97, 61), (20, 33), (2, 2), (300, 40)])
def test_any_size_gives_a_finite_map_of_the_asked_size(localizer, size):
    for map_size in (14, 33):
        saliency = localizer(map_size)(scene(2, *size))
        assert saliency.shape == (2, map_size, map_size)
        assert saliency.dtype == torch.float32
        assert saliency.isfinite().all()


def test_the_map_may_be_oblong():
    assert BoundaryPriorSaliency((14, 20))(scene(2)).shape == (2, 14, 20)


@pytest.mark.parametrize("localizer", WEIGHT_FREE)
def test_the_map_of_an_image_does_not_depend_on_its_batch(localizer):
    images = torch.cat([scene(3), torch.zeros(1, 3, 96, 96), torch.full((1, 3, 96, 96), 1e3)])
    together = localizer()(images)
    alone = torch.cat([localizer()(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    broken = images.clone()
    broken[1] = torch.nan
    rest = [0, 2, 3, 4]
    torch.testing.assert_close(localizer()(broken)[rest], alone[rest], rtol=1e-4, atol=1e-4)
    assert not foreground(localizer()(broken))[1].any()


@pytest.mark.parametrize("localizer", WEIGHT_FREE)
@pytest.mark.parametrize("dims", [(-1,), (-2,), (-2, -1)])
def test_flipping_the_image_flips_the_map(localizer, dims):
    images = scene(3, 90, 75)
    expected = localizer()(images).flip(dims)
    torch.testing.assert_close(localizer()(images.flip(dims)), expected, rtol=2e-3, atol=2e-3)


def test_scaled_shifted_and_normalised_images_serve_alike():
    images = scene(4)
    localizer = BoundaryPriorSaliency()
    expected = localizer(images)
    shift = torch.tensor([0.5, -0.2, 1.0]).view(3, 1, 1)
    torch.testing.assert_close(localizer(images * 255), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(localizer(images + shift), expected, rtol=1e-3, atol=1e-3)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    assert (localizer((images - mean) / std) - expected).abs().max() < 0.1


@pytest.mark.parametrize("colour", [(0, 0, 0), (1, 1, 1), (0.3, 0.3, 0.3), (0.1, 0.7, 0.33)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_constant_image_leaves_the_centre_prior_alone(colour, dtype):
    images = torch.tensor(colour).view(1, 3, 1, 1).expand(2, 3, 97, 61).to(dtype)
    expected = centre_prior((28, 28)).expand(2, -1, -1)
    torch.testing.assert_close(BoundaryPriorSaliency()(images), expected, rtol=0, atol=0.05)
    centre = foreground(pool_to_grid(BoundaryPriorSaliency()(images), 7))
    assert centre[:, 3, 3].all()
    assert not centre[:, 0, 0].any()
    assert not foreground(pool_to_grid(SpectralResidualSaliency()(images), 7)).any()


@pytest.mark.parametrize("localizer", WEIGHT_FREE)
def test_one_pixel_a_single_grey_level_off_is_found(localizer):
    images = torch.full((1, 3, 96, 96), 0.5)
    images[:, :, 60, 30] += 1 / 255
    saliency = localizer(28)(images)
    assert saliency.isfinite().all()
    place = saliency.flatten().argmax().item()
    assert abs(place // 28 - 60 * 28 // 96) <= 1
    assert abs(place % 28 - 30 * 28 // 96) <= 1


def test_grey_and_letterboxed_images_have_no_singular_border():
    grey = scene(2)[:, :1].expand(-1, 3, -1, -1)
    box = torch.zeros(2, 3, 96, 96)
    box[:, :, 20:-20, 20:-20] = scene(2, 56, 56)
    for images in (grey, box):
        saliency = BoundaryPriorSaliency()(images)
        assert saliency.isfinite().all()
        assert saliency.std(dim=(1, 2)).min() > 0.1
    assert foreground(pool_to_grid(BoundaryPriorSaliency()(box), 7))[:, 3, 3].all()


@pytest.mark.parametrize("localizer", WEIGHT_FREE)
def test_autocast_changes_nothing(localizer):
    images = scene(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = localizer()(images)
    assert torch.equal(inside, localizer()(images))


@pytest.mark.parametrize("localizer", WEIGHT_FREE)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_images_give_the_map_of_their_float32_copy(localizer, dtype):
    images = scene(3).to(dtype)
    assert torch.equal(localizer()(images), localizer()(images.float()))


@pytest.mark.parametrize("localizer", WEIGHT_FREE)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_and_cpu_agree(localizer):
    images = scene(4, 90, 75)
    actual = localizer()(images.cuda()).cpu()
    torch.testing.assert_close(actual, localizer()(images), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("localizer", WEIGHT_FREE)
def test_images_of_another_shape_are_refused(localizer):
    for shape in [(3, 32, 32), (2, 0, 32, 32), (2, 3, 1, 32)]:
        with pytest.raises(InputError, match=r"shape \(N, C, H, W\)"):
            localizer()(torch.zeros(shape))
    with pytest.raises(InputError, match="map_size"):
        localizer(2)


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


def test_the_rank_based_auc_equals_counting_all_pairs():
    random = np.random.default_rng(0)
    for levels in (1, 2, 3, 10, 10**6):
        for size in (2, 5, 49):
            scores = random.integers(0, levels, size).astype(float)
            truth = random.random(size) < 0.4
            truth[0], truth[-1] = True, False
            wins = [
                1.0 if a > b else 0.5 if a == b else 0.0
                for a in scores[truth]
                for b in scores[~truth]
            ]
            assert roc_auc(scores, truth) == pytest.approx(sum(wins) / len(wins), abs=1e-12)


def test_the_default_finds_the_objects_of_real_photos(photos):
    images, objects = coco_photos(photos("coco-mini") / "coco-mini", "val")
    truth = on_grid(objects)
    auc, counted = score(BoundaryPriorSaliency()(images), truth)
    prior, _ = score(centre_prior((28, 28)).expand(len(images), -1, -1), truth)
    spectral, _ = score(SpectralResidualSaliency()(images), truth)
    assert counted == 85
    assert prior == pytest.approx(0.775, abs=0.01)
    assert spectral > 0.66
    assert auc >= 0.79
    assert auc > prior + 0.02
