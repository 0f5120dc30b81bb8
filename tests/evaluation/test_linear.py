import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mmsalmask.commands import knn, linear
from mmsalmask.errors import InputError
from mmsalmask.evaluation import accuracy, evaluate_linear
from mmsalmask.evaluation.features import LabelledFeatures
from mmsalmask.evaluation.linear import Recipe, choose, fit_stack

ROOT = Path(__file__).resolve().parents[2]


def clusters(seed, images, classes=3, dim=4, noise=1.0, dtype=torch.float32):
    """Features around a centre for each class; the centres are those of all seeds."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(images) % classes
    spread = noise * torch.randn(images, dim, generator=generator)
    return (centres[labels] + spread).to(dtype), labels


def fit_alone(features, labels, classes, rate, decay, recipe, seed):
    """One classifier by PyTorch's own layer, loss, optimizer and schedule."""
    generator = torch.Generator().manual_seed(seed)
    layer = torch.nn.Linear(features.shape[1], classes).to(features.dtype)
    with torch.no_grad():
        first = 0.01 * torch.randn(classes, features.shape[1], generator=generator)
        layer.weight.copy_(first)
        layer.bias.zero_()
    optimizer = torch.optim.SGD(
        layer.parameters(), lr=rate, momentum=recipe.momentum, weight_decay=decay
    )
    if recipe.schedule == "cosine":
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    else:
        milestones = [recipe.epochs * 6 // 10, recipe.epochs * 8 // 10]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
    for _ in range(recipe.epochs):
        order = torch.randperm(len(features), generator=generator)
        for start in range(0, len(order), recipe.batch_size):
            batch = order[start : start + recipe.batch_size]
            optimizer.zero_grad()
            F.cross_entropy(layer(features[batch]), labels[batch]).backward()
            optimizer.step()
        schedule.step()
    return layer


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    images=st.integers(2, 40),
    classes=st.integers(2, 5),
    dim=st.integers(1, 6),
    batch=st.integers(1, 16),
    momentum=st.sampled_from([0.0, 0.9]),
    schedule=st.sampled_from(["step", "cosine"]),
)
def test_the_stack_is_what_pytorch_fits_one_by_one(
    seed, images, classes, dim, batch, momentum, schedule
):
    features, labels = clusters(seed, images, classes, dim, dtype=torch.float64)
    rates, decays = [0.01, 0.3, 1.0, 0.3], [0.0, 0.01, 0.001, 0.0]
    recipe = Recipe(10, batch, momentum, schedule)
    stack = fit_stack(features, labels, classes, rates, decays, recipe, seed)
    predicted = stack.classify(features, chunk=7)
    for i, (rate, decay) in enumerate(zip(rates, decays, strict=True)):
        layer = fit_alone(features, labels, classes, rate, decay, recipe, seed)
        torch.testing.assert_close(stack.weight[i], layer.weight.data, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(stack.bias[i], layer.bias.data, atol=1e-5, rtol=1e-5)
        assert predicted[i].tolist() == layer(features).argmax(1).tolist()


def test_mocos_recipe_in_single_precision_is_what_pytorch_fits():
    features, labels = clusters(3, 600, classes=7, dim=16)
    stack = fit_stack(features, labels, 7, [0.1, 1.0], [0.0, 1e-4], Recipe(20), seed=1)
    assert stack.weight.dtype == torch.float32
    for i, (rate, decay) in enumerate(((0.1, 0.0), (1.0, 1e-4))):
        layer = fit_alone(features, labels, 7, rate, decay, Recipe(20), seed=1)
        torch.testing.assert_close(stack.weight[i], layer.weight.data, atol=1e-5, rtol=1e-4)


def test_the_schedules():
    step = Recipe(100)
    assert [step.factor(epoch) for epoch in (0, 59, 60, 79, 80, 99)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    cosine = Recipe(100, schedule="cosine")
    assert [cosine.factor(epoch) for epoch in (0, 50, 100)] == pytest.approx([1, 0.5, 0])


def test_the_result_depends_on_the_seed_and_on_nothing_else():
    train, test = clusters(0, 90, noise=2.0), clusters(1, 60, noise=2.0)
    data = LabelledFeatures(*train, *test)
    rates, recipe = (0.01, 0.1, 1.0), Recipe(5, 16)
    torch.manual_seed(0)
    first = evaluate_linear(data, 3, rates, recipe=recipe, seed=4)
    torch.manual_seed(1)
    assert evaluate_linear(data, 3, rates, recipe=recipe, seed=4) == first
    others = [evaluate_linear(data, 3, rates, recipe=recipe, seed=seed) for seed in range(4)]
    assert any(other["trials"] != first["trials"] for other in others)


def test_the_best_on_the_images_held_out_is_fitted_to_all_and_tested():
    train, test = clusters(0, 90, noise=2.0), clusters(1, 60, noise=2.0)
    data = LabelledFeatures(*train, *test)
    rates, decays, recipe = (1e-6, 0.03, 30.0), (0.0, 0.1), Recipe(20, 16)
    found = evaluate_linear(data, 3, rates, decays, 0.3, recipe, seed=2)
    assert [(t["learning_rate"], t["weight_decay"]) for t in found["trials"]] == [
        (rate, decay) for rate in rates for decay in decays
    ]
    best = max(found["trials"], key=lambda trial: trial["top1"])
    chosen = (found["learning_rate"], found["weight_decay"])
    assert chosen == (best["learning_rate"], best["weight_decay"])
    assert len({trial["top1"] for trial in found["trials"]}) > 1
    layer = fit_alone(*train, 3, *chosen, recipe, seed=2)
    expected = accuracy(layer(test[0]).argmax(1), test[1])
    assert (found["top1"], found["mean_per_class"]) == pytest.approx(expected)
    single = evaluate_linear(data, 3, [chosen[0]], [chosen[1]], recipe=recipe, seed=2)
    assert single == {**found, "trials": []}


def test_the_choice_is_blind_to_the_test_images():
    """The held-out images favour one rate, the test images another: theirs must not be taken."""
    train, test = clusters(0, 90, noise=0.5), clusters(1, 60, noise=0.5)
    rates, recipe = (1e-7, 0.1), Recipe(20, 16)
    chosen, _ = choose(*train, 3, rates, recipe=recipe, seed=0)
    assert chosen.learning_rate == 0.1
    poor = fit_stack(*train, 3, rates, (0.0, 0.0), recipe, seed=0).classify(test[0])[0]
    # With the labels that the other rate's classifier gives, that rate is perfect on the test.
    for labels in (test[1], poor):
        found = evaluate_linear(LabelledFeatures(*train, test[0], labels), 3, rates, recipe=recipe)
        assert found["learning_rate"] == 0.1
        assert found["trials"][1] == chosen._asdict()
    assert found["top1"] < 90
    by_test = evaluate_linear(LabelledFeatures(*train, test[0], poor), 3, rates[:1], recipe=recipe)
    assert by_test["top1"] == 100


def test_images_held_out_are_not_learned_from():
    """Labels without sense can be learned by heart, and are of no use for other images."""
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(120, 200, generator=generator), torch.arange(120) % 4
    recipe = Recipe(100, 16)
    by_heart = fit_stack(features, labels, 4, [1.0], [0.0], recipe).classify(features)[0]
    assert accuracy(by_heart, labels)[0] == 100
    best, _ = choose(features, labels, 4, (0.1, 1.0), recipe=recipe)
    assert best.top1 < 60


def test_every_class_keeps_an_image_to_learn_from():
    features, labels = clusters(0, 30, classes=3)
    labels[labels == 2] = 1
    labels[0] = 2  # alone in its class
    _, trials = choose(features, labels, 3, (0.1, 1.0), held_out=0.9, recipe=Recipe(5), seed=0)
    assert len(trials) == 2
    with pytest.raises(InputError, match="too few to hold out"):
        choose(features[:3], torch.arange(3), 3, (0.1, 1.0), held_out=0.2)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(learning_rates=(0.1, 0.0)), "learning rates must be positive"),
        (dict(weight_decays=(-1.0,)), "weight decays must not be negative"),
        (dict(held_out=1.0), "share held out is 1.0"),
        (dict(recipe=Recipe(epochs=0)), "at least 1"),
        (dict(recipe=Recipe(momentum=1.0)), r"momentum in \[0, 1\)"),
        (dict(recipe=Recipe(schedule="linear")), "'step' or 'cosine', got 'linear'"),
    ],
)
def test_what_cannot_work_is_told_in_a_sentence(change, sentence):
    data = LabelledFeatures(*clusters(0, 30), *clusters(1, 30))
    with pytest.raises(InputError, match=sentence):
        evaluate_linear(data, 3, **change)
    data.train[3, 2] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        evaluate_linear(data, 3)


def test_the_tool_tells_the_rates_it_tried_and_writes_where_its_figure_comes_from(
    tmp_path, capsys, shapes, config_file
):
    report = tmp_path / "linear.json"
    words = ["--train", shapes / "train", "--test", shapes / "test", "--size", 32, "--workers", 0]
    words += ["--lr", 0.01, 1, "--epochs", 10, "--json", report, "--seed", 3]
    linear.main([str(word) for word in (config_file, "none", *words)])
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(report.read_text())
    assert [line.split(":")[0] for line in lines[:2]] == [
        "lr 0.01, weight decay 0",
        "lr 1, weight decay 0",
    ]
    assert "widen --lr" in lines[2]
    assert lines[3].startswith(f"linear top-1 {result['top1']:.1f} %, mean per class ")
    assert result["learning_rate"] in (0.01, 1)
    assert (result["train_images"], result["test_images"], result["seed"]) == (24, 6, 3)
    assert {"command", "commit", "hardware", "torch"} <= set(result)


@pytest.mark.parametrize(
    ("tool", "more", "told"),
    [
        (linear, ["--lr", -1], "learning rates must be positive"),
        (linear, ["--held-out", 1], "the share held out is 1.0"),
        (linear, ["--knn", 25], "k = 25 neighbours cannot be drawn from a bank of 24"),
        (knn, ["-k", 5, 25], "k = 25 neighbours cannot be drawn from a bank of 24"),
        (knn, ["--temperature", 0], "The kNN temperature is 0.0"),
    ],
)
def test_a_number_that_cannot_work_is_told_before_any_image_is_encoded(
    shapes, config_file, capsys, monkeypatch, tool, more, told
):
    monkeypatch.setattr(
        "mmsalmask.evaluation.features.extract_both", lambda *_: pytest.fail("encoded")
    )
    words = [config_file, "none", "--train", shapes / "train", "--test", shapes / "test", *more]
    with pytest.raises(SystemExit, match="2"):
        tool.main([str(word) for word in (*words, "--size", 32)])
    assert f"error: {told}" in capsys.readouterr().err
