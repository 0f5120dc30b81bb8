"""What benchmarks/traffic.py counts, and that views and masks move no more than they do."""

import sys

import pretrain_cost
import pytest
import torch
import traffic

N = 10  # elements of each float32 tensor below, of which the index chooses three


@pytest.mark.parametrize(
    ("run", "kernels", "elements"),
    [
        (lambda a, b, index: a + b, 1, 3 * N),
        (lambda a, b, index: a.add_(b), 1, 3 * N),
        (lambda a, b, index: torch.add(a, a, out=b), 1, 3 * N),
        (lambda a, b, index: a.zero_(), 1, N),
        (lambda a, b, index: a.copy_(b), 1, 2 * N),
        (lambda a, b, index: a.view(2, 5).t()[1:], 0, 0),
        (lambda a, b, index: a[:1].expand(N) + b, 1, 1 + 2 * N),
        (lambda a, b, index: a.index_select(0, index), 1, 2 * 3),
        (lambda a, b, index: a.index_copy_(0, index, b[:3]), 1, 2 * 3),
        (lambda a, b, index: torch._foreach_add_([a, b], [b, a]), 1, 6 * N),
        (lambda a, b, index: torch.empty_like(a), 0, 0),
        (lambda a, b, index: torch.ones(N) + 1, 0, 0),  # on the host
    ],
)
def test_a_kernel_reads_its_inputs_and_writes_its_results_once(run, kernels, elements):
    a, b = torch.empty(N, device="meta"), torch.empty(N, device="meta")
    index = torch.empty(3, dtype=torch.long, device="meta")
    with traffic.Traffic() as counted:
        run(a, b, index)
    assert counted.kernels["encoder"] == kernels
    assert counted.bytes["encoder"] == 4 * elements


@pytest.fixture(scope="module")
def counted():
    """The price of 128 pairs of 224 px out of 288 px, with a small encoder and queue."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["traffic.py", "--depth", "18", "--queue", "256"])
        options = traffic.parse_arguments()
    return {name: traffic.count(options, name) for name in options.methods}


def total(stages: dict, names: list[str], key: str) -> float:
    return sum(stages[name][key] for name in names)


def test_views_move_no_more_than_they_do(counted):
    views, *others = (stages["views"] for stages in counted.values())
    assert all(other == views for other in others)
    assert views["kernels"] <= 140
    assert views["least"] < views["bytes"] <= 8e9


@pytest.mark.parametrize(("strategy", "most"), [("mean", 1.2), ("blur", 1.8), ("high-pass", 2.5)])
def test_masks_move_no_more_than_they_do(counted, strategy, most):
    stages = counted[f"{strategy}, weight-free, hard negative"]
    parts = ["localize", "mask", "fill"]
    assert total(stages, parts, "kernels") <= 100
    assert total(stages, parts, "least") < total(stages, parts, "bytes") <= most * 1e9


def test_what_masks_do_is_not_told_of_plain_training_and_the_rest_is(counted):
    plain, masked = counted["plain"], counted["mean, weight-free, hard negative"]
    assert set(masked) - set(plain) == {"localize", "mask", "fill"}
    # Beside query and key, a hard negative is encoded forward: half a forward of plain training's
    # query, whose backward is twice its forward.
    more = masked["encoder"]["least"] / plain["encoder"]["least"]
    assert 1.2 < more < 1.35
    for stage in ("upload", "views", "normalise", "momentum encoder", "optimizer"):
        assert plain[stage] == masked[stage]
    assert plain["momentum encoder"]["bytes"] == plain["momentum encoder"]["least"]


@pytest.mark.parametrize(
    ("moved", "operations", "halved", "seconds"),
    [
        (0.6 * 2.04e12, 1.0, False, 1.0),  # a second at the bandwidth
        (0.6 * 2.04e12, 1.0, True, 0.5),
        (8.0, 0.6 * 312e12, True, 1.0),  # a second at the speed
        (8.0, 0.0, False, 3e-6),
    ],
)
def test_a_kernel_lasts_as_long_as_what_limits_it(moved, operations, halved, seconds):
    assert traffic.predict(moved, operations, "A100", halved) == pytest.approx(seconds)


def test_the_prediction_counts_products_and_bytes_of_every_stage(counted):
    for stages in counted.values():
        for row in stages.values():
            for gpu, limits in traffic.GPUS.items():
                least = row["bytes"] / 2 / limits.bandwidth
                shortest = max(least, row["kernels"] * traffic.SHORTEST)
                assert row["predicted"][gpu] > 0.999 * shortest
    # A forward of ResNet-18 at 224 px is 3.6 GFLOP; four of them and the hard negative's fifth.
    encoder = counted["mean, weight-free, hard negative"]["encoder"]
    laptop = traffic.GPUS["laptop"]
    assert encoder["predicted"]["laptop"] > 128 * 5 * 3.6e9 / laptop.speed


def test_the_clock_gives_each_stage_its_own_time():
    times = iter([0.0, 1.0, 4.0, 9.0, 11.0, 20.0])  # of the start and of each change
    clock = traffic.Clock(lambda: next(times))
    with clock.stage("views"), clock.stage("normalise"):
        pass
    assert clock.lap() == {"encoder": 1.0 + 9.0, "views": 3.0 + 2.0, "normalise": 5.0}


def test_steps_are_timed_beside_the_prediction(monkeypatch, capsys):
    small = ["--depth", "18", "--size", "32", "--stored", "40", "--batch", "2", "--queue", "8"]
    method = "mean, weight-free, hard negative"
    run = ["traffic.py", "--methods", method, "--device", "cpu", "--steps", "1", "--warm-up", "0"]
    monkeypatch.setattr(sys, "argv", run + small)
    found = {}
    monkeypatch.setattr(traffic, "show", lambda results, *told: found.update(results))
    traffic.main()
    for stage, row in found[method].items():
        assert row["measured"] > 0, stage


def test_a_table_in_a_pipe_tells_every_method_by_its_whole_name(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    row = dict(seconds=1.0, ratio=1.0, paper=1.91, images_per_second=64.0, peak_memory_mb=512.0)
    row["waits"] = 0
    row["shares"] = dict.fromkeys(pretrain_cost.PARTS, 0.25)
    names = pretrain_cost.methods()
    monkeypatch.setattr(sys, "argv", ["pretrain_cost.py"])
    pretrain_cost.show(dict.fromkeys(names, row), pretrain_cost.parse_arguments())
    printed = capsys.readouterr().out
    assert all(f" {name} " in printed for name in names)
    assert "…" not in printed
