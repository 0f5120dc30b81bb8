"""What looks unlike the border: the formula cell by cell, invariances, and real photos."""

import numpy as np
import pytest
import references
import torch
from localizers import coco_photos, on_grid, score
from registered import scene

from mmsalmask.saliency import (
    BoundaryPriorSaliency,
    SpectralResidualSaliency,
    centre_prior,
    foreground,
    pool_to_grid,
)


def slow_border_distance(image, size):
    """log(1 + d²) of one (3, H, W) image, (rows, columns) of ``size``, cell by cell in NumPy."""
    grey = image.mean(0)
    height, width = size
    step = max(1, len(grey) // (2 * height))  # two pairs of neighbouring rows for each cell
    rows = grey[::step]
    pairs = [(grey[i], grey[i + 1]) for i in range(0, len(grey) - 1, step)]
    above, below = (np.stack(side) for side in zip(*pairs, strict=True))
    energies = [
        (rows[:, 1:] - rows[:, :-1]) ** 2,
        (below - above) ** 2,
        (below[:, 1:] - above[:, :-1]) ** 2,
        (below[:, :-1] - above[:, 1:]) ** 2,
    ]

    planes = [references.pool(channel, size) for channel in image]
    for energy in energies:
        energy = references.pool(energy, size)
        planes.append(np.log(energy / energy.mean() + 0.3))
    planes = [(plane - plane.mean()) / plane.std(ddof=1) for plane in planes]
    band = [max(1, round(side / 14)) for side in size]
    border = [
        (i, j)
        for i in range(height)
        for j in range(width)
        if min(i, height - 1 - i) < band[0] or min(j, width - 1 - j) < band[1]
    ]
    known = np.array([[plane[place] for plane in planes] for place in border])
    covariance = np.cov(known.T, bias=True) + 0.01 * np.eye(7)
    inverse = np.linalg.inv(covariance)
    distance = np.zeros(size)
    for i in range(height):
        for j in range(width):
            away = np.array([plane[i, j] for plane in planes]) - known.mean(0)
            distance[i, j] = np.log1p(away @ inverse @ away)
    return distance


def reference(localizer, views, crops, grid):
    rows, columns = (((np.arange(side) + 0.5) / side * 2 - 1) ** 2 for side in localizer.map_size)
    maps = [
        slow_border_distance(view, localizer.map_size) - rows[:, None] - columns for view in views
    ]
    return np.stack([references.pool(saliency, grid) for saliency in maps])


@pytest.mark.parametrize("size", [(14, 14), (28, 28), (10, 28)])
def test_the_border_distance_equals_the_formula_cell_by_cell(size):
    images = scene(3, 112, 84)
    localizer = BoundaryPriorSaliency(size)
    expected = torch.from_numpy(
        np.stack([slow_border_distance(image, size) for image in images.double().numpy()])
    ).float()
    torch.testing.assert_close(localizer.border_distance(images), expected, rtol=1e-3, atol=2e-3)
    prior = centre_prior(size)
    torch.testing.assert_close(localizer(images), expected + prior, rtol=1e-3, atol=2e-3)


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


def test_the_map_may_be_oblong():
    assert BoundaryPriorSaliency((14, 20))(scene(2)).shape == (2, 14, 20)


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


def test_grey_and_letterboxed_images_have_no_singular_border():
    grey = scene(2)[:, :1].expand(-1, 3, -1, -1)
    box = torch.zeros(2, 3, 96, 96)
    box[:, :, 20:-20, 20:-20] = scene(2, 56, 56)
    for images in (grey, box):
        saliency = BoundaryPriorSaliency()(images)
        assert saliency.isfinite().all()
        assert saliency.std(dim=(1, 2)).min() > 0.1
    assert foreground(pool_to_grid(BoundaryPriorSaliency()(box), 7))[:, 3, 3].all()


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
