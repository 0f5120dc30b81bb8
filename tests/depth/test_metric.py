import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsalmask.depth import (
    DepthMetric,
    TranslationMetric,
    constant_depth_errors,
    depth_errors,
)
from mmsalmask.depth.geometry import rigid_motion
from mmsalmask.depth.metric import FIGURES, direction_errors
from mmsalmask.errors import InputError

torch.set_num_threads(1)


def maps(number=3, size=(21, 33), seed=0):
    """Random predictions, and truths from 0 to 120 m that are unknown in two pixels of three."""
    random = np.random.RandomState(seed)
    predicted = random.uniform(0.05, 5, (number, *size))
    truth = random.uniform(0, 120, (number, *size)) * (random.rand(number, *size) < 0.33)
    return torch.from_numpy(predicted), torch.from_numpy(truth)


def pixels_that_count(truth, crop):
    """(v, u) of the pixels that Garg et al. evaluate."""
    height, width = truth.shape
    return [
        (v, u)
        for v in range(height)
        for u in range(width)
        if 1e-3 < truth[v, u] < 80
        and (
            not crop
            or (
                int(0.40810811 * height) <= v < int(0.99189189 * height)
                and int(0.03594771 * width) <= u < int(0.96405229 * width)
            )
        )
    ]


def slow_figures(predicted, truth, crop=True, scaling=True):
    """Seven figures of one image, pixel by pixel."""
    places = pixels_that_count(truth, crop)
    d = np.array([predicted[place] for place in places])
    t = np.array([truth[place] for place in places])
    if scaling:
        d = d * np.median(t) / np.median(d)
    d = np.clip(d, 1e-3, 80)
    number = len(t)
    ratio = [max(a / b, b / a) for a, b in zip(d, t, strict=True)]
    return [
        sum(abs(a - b) / b for a, b in zip(d, t, strict=True)) / number,
        sum((a - b) ** 2 / b for a, b in zip(d, t, strict=True)) / number,
        math.sqrt(sum((a - b) ** 2 for a, b in zip(d, t, strict=True)) / number),
        math.sqrt(
            sum((math.log(a) - math.log(b)) ** 2 for a, b in zip(d, t, strict=True)) / number
        ),
        *(sum(r < 1.25**power for r in ratio) / number for power in (1, 2, 3)),
    ]


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10_000),
    st.booleans(),
    st.booleans(),
    st.tuples(st.integers(9, 24), st.integers(9, 24)),
)
def test_figures_agree_with_the_slow_ones_on_random_maps(seed, crop, scaling, size):
    predicted, truth = maps(2, size, seed)
    figures, _ = depth_errors(predicted, truth, crop=crop, median_scaling=scaling)
    for own, d, t in zip(figures, predicted.numpy(), truth.numpy(), strict=True):
        if pixels_that_count(t, crop):
            assert own.tolist() == pytest.approx(slow_figures(d, t, crop, scaling), rel=1e-9)
        else:
            assert own.isnan().all()


def test_true_depth_in_any_unit_is_perfect_after_median_scaling_and_not_before():
    _, truth = maps()
    truth = truth.clamp(max=79)
    predicted = torch.where(truth > 0, truth, torch.full_like(truth, 5.0))
    figures, factor = depth_errors(predicted / 31, truth)
    assert torch.allclose(figures, torch.tensor([0, 0, 0, 0, 1, 1, 1]).double(), atol=1e-6)
    assert torch.allclose(factor, torch.full_like(factor, 31))
    unscaled, _ = depth_errors(predicted / 31, truth, median_scaling=False)
    assert (unscaled[:, 0] > 0.9).all()


def test_best_constant_is_no_worse_than_any_constant():
    _, truth = maps()
    best = constant_depth_errors(truth)
    for i, t in enumerate(truth.numpy()):
        values = np.array([t[place] for place in pixels_that_count(t, True)])
        errors = [np.mean(np.abs(c / values - 1)) for c in [*values, *np.linspace(0.1, 80, 400)]]
        assert best[i].item() == pytest.approx(min(errors), rel=1e-9)


def test_best_constant_is_measured_where_the_prediction_is():
    truth = torch.full((1, 20, 40), 50.0)
    truth[0, 10:] = 1.0
    metric = DepthMetric(nearest=10, crop=False)
    metric.process({}, samples(truth, truth))
    assert metric.evaluate(size=1)["depth/constant_abs_rel"] == 0


def samples(predicted, truth):
    return [
        {"pred_inverse_depth": 1 / d, "gt_depth": t} for d, t in zip(predicted, truth, strict=True)
    ]


def test_metric_averages_images_of_several_sizes():
    metric = DepthMetric()
    rows = []
    for size in [(21, 33), (16, 40)]:
        predicted, truth = maps(2, size)
        # Another order in each batch, one batch of both sizes at the end.
        metric.process({}, samples(predicted, truth))
        rows += [slow_figures(d, t) for d, t in zip(predicted.numpy(), truth.numpy(), strict=True)]
    mixed = [samples(*maps(1, size, seed=7))[0] for size in [(21, 33), (16, 40), (21, 33)]]
    metric.process({}, mixed)
    for size in [(21, 33), (16, 40), (21, 33)]:
        predicted, truth = maps(1, size, seed=7)
        rows.append(slow_figures(predicted[0].numpy(), truth[0].numpy()))
    measured = metric.evaluate(size=len(rows))
    expected = np.mean(rows, axis=0)
    assert [measured[f"depth/{name}"] for name in FIGURES] == pytest.approx(
        expected.tolist(), rel=1e-4
    )
    assert measured["depth/constant_abs_rel"] > 0


def test_disparity_is_resized_before_it_is_inverted():
    inverse = torch.tensor([[1.0, 0.5]]).repeat(2, 1)
    truth = torch.zeros(4, 8)
    truth[2, 3] = 10.0
    truth[2, 4] = 20.0
    metric = DepthMetric(crop=False, median_scaling=False)
    metric.process({}, [{"pred_inverse_depth": inverse, "gt_depth": truth}])
    # Four pixels of 1 and four of 0.5; between their centres a straight line of inverse depth.
    ramp = [1 - 0.5 * (u + 0.5 - 2) / 4 for u in (3, 4)]
    expected = np.mean([abs(1 / ramp[0] - 10) / 10, abs(1 / ramp[1] - 20) / 20])
    assert metric.evaluate(size=1)["depth/abs_rel"] == pytest.approx(expected, rel=1e-5)


def test_scale_spread_is_zero_for_one_unit_of_length_and_not_for_two():
    _, truth = maps(4)
    predicted = truth.clamp(min=1)
    for unit, zero in [(torch.ones(4), True), (torch.tensor([1.0, 1.0, 2.0, 3.0]), False)]:
        metric = DepthMetric()
        metric.process({}, samples(predicted * unit[:, None, None], truth))
        spread = metric.evaluate(size=4)["depth/scale_spread"]
        assert (spread < 1e-3) is zero


def test_an_image_without_valid_depth_is_an_error_of_one_sentence():
    metric = DepthMetric()
    predicted, truth = maps(2)
    metric.process({}, samples(predicted, truth * torch.tensor([1.0, 0.0])[:, None, None]))
    with pytest.raises(InputError, match="1 of 2 images have no true depth"):
        metric.evaluate(size=2)


def test_samples_without_truth_or_motion_are_refused():
    with pytest.raises(InputError, match="LoadTrueDepth"):
        DepthMetric().process({}, [{"pred_inverse_depth": torch.ones(2, 2)}])
    with pytest.raises(InputError, match="with_motion=True"):
        TranslationMetric().process({}, [{"pred_motions": torch.ones(2, 4, 4)}])
    with pytest.raises(InputError, match="must both be"):
        depth_errors(torch.ones(1, 2, 2), torch.ones(1, 2, 3))
    with pytest.raises(InputError, match="nearest to farthest"):
        DepthMetric(nearest=5, farthest=5)


def test_translation_is_measured_by_its_direction_alone():
    translations = torch.tensor([[0.0, 0, 1], [0, 0, 0.01], [1, 0, 0], [0, 0, -2], [1, 0, 1]])
    motions = rigid_motion(0.1 * torch.ones(5, 3), translations)
    truth = rigid_motion(torch.zeros(5, 3), torch.tensor([[0.0, 0, 3]]).expand(5, 3))
    angles = direction_errors(motions, truth)
    assert angles.tolist() == pytest.approx([0, 0, 90, 180, 45], abs=1e-4)
    metric = TranslationMetric()
    pairs = [
        {"pred_motions": m, "gt_motions": t}
        for m, t in zip(motions[:4].view(2, 2, 4, 4), truth[:4].view(2, 2, 4, 4), strict=True)
    ]
    metric.process({}, pairs)
    measured = metric.evaluate(size=2)
    assert measured["translation/mean_deg"] == pytest.approx(67.5, abs=1e-3)
    assert measured["translation/max_deg"] == pytest.approx(180, abs=1e-3)
