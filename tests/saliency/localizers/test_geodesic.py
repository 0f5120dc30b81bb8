"""The cheapest way out to the border: one cell and one neighbour at a time, and real photos."""

import numpy as np
import pytest
import references
import torch
from localizers import coco_photos, on_grid, score
from registered import scene

from mmsalmask.saliency import GeodesicSaliency, centre_prior, foreground


def reference(localizer, views, crops, grid):
    (rows, columns), maps = localizer.map_size, []
    for view in views:
        colours = np.stack([references.pool(channel, (rows, columns)) for channel in view])
        covariance = np.cov(colours.reshape(3, -1), bias=True)
        covariance += 0.02 * np.trace(covariance) / 3 * np.eye(3)
        inverse = np.linalg.inv(covariance)
        inside = [(i, j) for i in range(1, rows - 1) for j in range(1, columns - 1)]
        distance = np.zeros((rows, columns))
        for cell in inside:
            distance[cell] = np.inf
        for _ in range(max(rows, columns)):
            before = distance.copy()
            for i, j in inside:
                for y in (i - 1, i, i + 1):
                    for x in (j - 1, j, j + 1):
                        step = colours[:, y, x] - colours[:, i, j]
                        cost = np.sqrt(step @ inverse @ step)
                        distance[i, j] = min(distance[i, j], before[y, x] + cost)
        maps.append(references.pool(distance, grid))
    return np.stack(maps)


def test_an_oblong_map_equals_the_formula_cell_by_cell():
    images, localizer = scene(2, 60, 90), GeodesicSaliency((6, 9))
    expected = torch.from_numpy(reference(localizer, images.double().numpy(), None, (6, 9)))
    torch.testing.assert_close(localizer(images), expected.float(), rtol=1e-3, atol=1e-3)


def test_a_ring_encloses_what_has_the_colour_of_the_outside():
    image = torch.zeros(1, 3, 45, 45)
    image[:, 0, 10:35, 10:35] = 1
    image[:, 0, 15:30, 15:30] = 0
    saliency = GeodesicSaliency(9)(image)[0]
    assert saliency[0].max() == 0
    assert saliency[2, 2] > 1
    assert saliency[4, 4] == pytest.approx(2 * saliency[2, 2].item(), rel=1e-3)


def test_scaled_shifted_and_normalised_images_serve_alike():
    images, localizer = scene(4), GeodesicSaliency()
    expected = localizer(images)
    shift = torch.tensor([0.5, -0.2, 1.0]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    for changed in (images * 255, images + shift, (images - shift) / std):
        torch.testing.assert_close(localizer(changed), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("colour", [(0, 0, 0), (1, 1, 1), (0.3, 0.3, 0.3), (0.1, 0.7, 0.33)])
def test_a_constant_image_has_no_foreground(colour):
    images = torch.tensor(colour).view(1, 3, 1, 1).expand(2, 3, 97, 61)
    assert not foreground(GeodesicSaliency()(images)).any()


def test_it_finds_the_objects_of_real_photos(photos):
    images, objects = coco_photos(photos("coco-mini") / "coco-mini", "val")
    truth = on_grid(objects)
    auc, _ = score(GeodesicSaliency()(images), truth)
    prior, _ = score(centre_prior((28, 28)).expand(len(images), -1, -1), truth)
    assert auc == pytest.approx(0.806, abs=0.005)
    assert auc > prior + 0.02
