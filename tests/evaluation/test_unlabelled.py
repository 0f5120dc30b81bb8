"""Label-free measures against slow, obvious versions, and at their extremes."""

import math

import numpy as np
import pytest
import torch

from mmsalmask.errors import InputError
from mmsalmask.evaluation.unlabelled import (
    alignment,
    effective_rank,
    mean_distance,
    near_duplicates,
    nearest_similarities,
    rank_me,
    spread,
    uniformity,
)


def draw(number=13, width=5, seed=0):
    return torch.randn(number, width, generator=torch.Generator().manual_seed(seed))


def sphere(features):
    return [row / math.sqrt(sum(value**2 for value in row)) for row in features.double().numpy()]


def entropy_rank(values):
    shares = [value / sum(values) for value in values if value > 0]
    return math.exp(-sum(share * math.log(share) for share in shares))


def squared(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def pairs(rows):
    return [(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]


def test_ranks_are_as_the_slow_ones():
    features = draw() + 3
    matrix = features.double().numpy()
    gram = np.linalg.eigvalsh(matrix.T @ matrix).clip(0)
    assert rank_me(features) == pytest.approx(entropy_rank(np.sqrt(gram)), rel=1e-6)
    covariance = np.cov(matrix.T)
    wanted = entropy_rank(np.linalg.eigvalsh(covariance).clip(0))
    assert effective_rank(features) == pytest.approx(wanted, rel=1e-6)


def test_distances_are_as_the_slow_ones():
    first, second = draw(), draw(seed=1)
    a, b = sphere(first), sphere(second)
    wanted = np.mean([squared(x, y) for x, y in zip(a, b, strict=True)])
    assert alignment(first, second) == pytest.approx(wanted)
    wanted = math.log(np.mean([math.exp(-2 * squared(x, y)) for x, y in pairs(a)]))
    assert uniformity(first, chunk=4) == pytest.approx(wanted)
    assert mean_distance(first) == pytest.approx(np.mean([squared(x, y) for x, y in pairs(a)]))
    deviations = [math.sqrt(np.mean((column - column.mean()) ** 2)) for column in np.array(a).T]
    assert spread(first) == pytest.approx(np.mean(deviations) * math.sqrt(5))


def test_neighbours_are_as_the_slow_ones():
    features = torch.cat([draw(), draw()[:2] * 2])
    rows = sphere(features)
    similarities, indices = nearest_similarities(features, 3, chunk=4)
    some = torch.tensor([14, 3])
    own = nearest_similarities(features, 3, of=some)
    torch.testing.assert_close(own, (similarities[some], indices[some]))
    share = 0
    for i, row in enumerate(rows):
        others = sorted(((float(row @ b), j) for j, b in enumerate(rows) if j != i), reverse=True)
        assert similarities[i].tolist() == pytest.approx([s for s, _ in others[:3]])
        named = [float(row @ rows[j]) for j in indices[i]]  # of equals, either comes first
        assert similarities[i].tolist() == pytest.approx(named)
        assert i not in indices[i]
        share += others[0][0] >= 0.98
    assert near_duplicates(features) == pytest.approx(share / len(rows))
    assert share >= 4  # the two copies and their originals


def test_collapse_and_an_even_sphere_are_the_extremes():
    one, even = torch.ones(50, 8), draw(4000, 8)
    assert rank_me(one) == pytest.approx(1, abs=1e-4)
    assert effective_rank(one) == pytest.approx(1, abs=1e-4)
    assert spread(one) == pytest.approx(0, abs=1e-6)
    assert uniformity(one) == pytest.approx(0, abs=1e-9)
    assert near_duplicates(one) == 1
    assert effective_rank(even) == pytest.approx(8, abs=0.05)
    assert spread(even) == pytest.approx(1, abs=0.02)
    assert mean_distance(even) == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize(
    ("features", "words"),
    [(torch.ones(1, 4), "at least two"), (torch.full((4, 4), torch.nan), "not finite")],
)
def test_what_cannot_be_measured_is_refused(features, words):
    for measure in (rank_me, effective_rank, uniformity, spread, near_duplicates):
        with pytest.raises(InputError, match=words):
            measure(features)
    with pytest.raises(InputError, match="neighbours each, not 13"):
        nearest_similarities(draw(), 13)
