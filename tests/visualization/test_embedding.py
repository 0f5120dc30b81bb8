"""Features in the plane: the right images, and groups that stay groups."""

import numpy as np
import torch

from mmsalmask.visualization.embedding import most_frequent, tsne


def test_the_largest_classes_are_chosen_and_of_each_the_first_images():
    labels = np.array([2, 0, 2, 1, 1, 3, 2, 3, 1])
    assert most_frequent(labels, 2, 2).tolist() == [3, 4, 0, 2]
    assert most_frequent(labels, 9, 9).tolist() == [3, 4, 8, 0, 2, 6, 5, 7, 1]


def test_groups_stay_groups_whatever_the_length_of_features_and_a_seed_decides():
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 16, generator=random)
    features = centres.repeat_interleave(10, 0) + 0.1 * torch.randn(30, 16, generator=random)
    features *= torch.rand(30, 1, generator=random) * 9 + 1
    points = tsne(features, seed=0)
    assert points.shape == (30, 2)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argmin(1)
    assert (nearest // 10 == np.arange(30) // 10).all()
    assert (tsne(features, seed=0) == points).all()
