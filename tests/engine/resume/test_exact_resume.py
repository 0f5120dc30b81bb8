"""A killed run, resumed, is the run that was never killed: the parts (all: tests/system)."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.visualization import Visualizer
from system.comparing import curves, differences
from torch.utils.data import BatchSampler, DataLoader, Dataset

from mmsalmask.engine.resume.draws import DrawSampler, SeededDataset, seeded_loader
from mmsalmask.engine.resume.log_files import cut_logs, log_sizes, logged_points
from mmsalmask.engine.resume.randomness import (
    kept_generators,
    kept_random_state,
    random_state,
    seed_generators,
    set_random_state,
)

ROOT = Path(__file__).resolve().parents[3]


def draw() -> tuple:
    return random.random(), np.random.rand(), torch.rand(()).item()


class Noise(Dataset):
    """Random numbers of all three generators; how many are drawn depends on the index."""

    metainfo = {"classes": ("noise",)}

    def __init__(self, length: int = 11) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple:
        return index, [draw() for _ in range(index % 3 + 1)][-1]


def load(
    workers: int, epochs=(0, 1), first: int = 0, seed: int = 3, kind=DefaultSampler, stop=None
) -> list:
    """The batches of some epochs, the first of them from batch ``first`` on."""
    dataset = Noise()
    sampler = kind(dataset, shuffle=True, seed=seed)
    loader = DataLoader(
        dataset,
        batch_size=4,
        sampler=sampler,
        num_workers=workers,
        collate_fn=list,
        persistent_workers=workers > 0,
    )
    loader, batches = seeded_loader(loader, seed), []
    for epoch in epochs:
        loader.batch_sampler.start(epoch, first)
        first = 0
        for batch in loader:
            batches.append(batch)
            if len(batches) == stop:
                return batches
    return batches


# ------------------------------------------------------------------------------------ samples


@pytest.mark.parametrize("workers", [1, 3])
def test_samples_are_the_same_with_any_number_of_workers(workers):
    assert load(workers) == load(0)


def test_samples_differ_between_images_epochs_and_seeds():
    first, second, other = load(0, [0]), load(0, [1]), load(0, [0], seed=4)
    values = [value for batches in (first, second, other) for b in batches for _, value in b]
    assert len(set(values)) == 3 * 11
    assert sorted(index for batch in second for index, _ in batch) == list(range(11))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_an_epoch_can_be_entered_anywhere(workers, first):
    whole = load(0)
    assert load(workers, first=first) == whole[first:]


def test_an_infinite_sampler_can_be_entered_anywhere():
    whole = load(0, [0], kind=InfiniteSampler, stop=9)
    assert load(0, [0], 5, kind=InfiniteSampler, stop=4) == whole[5:]
    values = [value for batch in whole for _, value in batch]
    assert len(set(values)) == 36  # an image that comes again comes with new numbers


def test_loading_leaves_the_streams_of_training_alone():
    before = draw(), random_state()
    set_random_state(before[1])
    load(0), load(2)
    assert not list(differences(random_state(), before[1]))


def test_samples_of_a_batch_are_those_asked_for_one_by_one():
    dataset, draws = SeededDataset(Noise(), seed=0), [(3, 1, 0), (0, 1, 1), (3, 2, 0)]
    together = dataset.__getitems__(draws)
    assert not list(differences(together, [dataset[draw] for draw in draws]))
    assert list(differences(together[0], together[2]))


def test_the_seeded_dataset_is_otherwise_the_wrapped_one():
    dataset = SeededDataset(Noise(), seed=0)
    assert dataset.metainfo == Noise.metainfo
    assert len(dataset) == 11
    with pytest.raises(AttributeError, match="full_init"):
        dataset.full_init  # noqa: B018
    sampler = DrawSampler(BatchSampler(DefaultSampler(dataset, seed=0), 4, False))
    assert len(sampler) == 3


def test_what_is_drawn_under_a_seed_or_aside_does_not_move_the_streams():
    state = random_state()
    expected = draw(), draw()
    set_random_state(state)
    found = [draw()]
    with kept_random_state(), kept_generators():
        seed_generators(1, 2, 3)
        under = draw(), draw()
    found.append(draw())
    assert tuple(found) == expected
    with kept_generators():
        seed_generators(1, 2, 3)
        assert (draw(), draw()) == under
        seed_generators(1, 2, 4)
        assert not set(draw()) & set(under[0])


# ------------------------------------------------------------------------------------ curves


def test_curves_are_cut_back_to_the_checkpoint(tmp_path):
    def run(name: str) -> Visualizer:
        return Visualizer(
            name=str(tmp_path / name),
            save_dir=str(tmp_path / name),
            vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")],
        )

    first, second = run("first"), run("second")
    for step in range(3):
        first.add_scalars({"loss": step / 2}, step=step)
    state, expected = {"logs": log_sizes(tmp_path, first)}, curves(tmp_path)
    assert len(expected) == 6
    first.add_scalars({"loss": 9.0}, step=3)
    second.add_scalars({"loss": 9.0}, step=3)
    log_sizes(tmp_path, first), log_sizes(tmp_path, second)
    (tmp_path / "first" / "notes.json").write_text("{}")
    assert len(curves(tmp_path)) == 10
    assert cut_logs(tmp_path, state, current=tmp_path / "second") > 0
    assert len(curves(tmp_path)) == 8  # the current run's are left alone
    assert cut_logs(tmp_path, state, current=tmp_path / "third") > 0
    assert curves(tmp_path) == expected
    assert cut_logs(tmp_path, state, current=tmp_path / "third") == 0
    assert (tmp_path / "first" / "notes.json").exists()


@pytest.mark.parametrize(
    "state",
    [
        {"logs": {"elsewhere/vis_data/scalars.json": 3}},
        {"logs": {}, "log_folder": "elsewhere"},
    ],
)
def test_a_checkpoint_of_another_folder_leaves_the_curves_of_this_one(tmp_path, state):
    file = tmp_path / "here" / "vis_data" / "scalars.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"loss": 1}\n')
    assert cut_logs(tmp_path, state, current=tmp_path / "now") == 0
    assert file.read_text() == '{"loss": 1}\n'
    assert cut_logs(tmp_path, {"logs": {}, "log_folder": "here"}, current=tmp_path / "now") > 0
    assert not file.exists()


# ------------------------------------------------------------------------------------ the whole


def test_a_difference_of_one_bit_is_found():
    one = {"a": [torch.zeros(3), {"b": np.arange(3.0)}], "time": 1}
    same = {"a": [torch.zeros(3), {"b": np.arange(3.0)}], "time": 2}
    assert list(differences(one, same)) == []
    same["a"][0][1] = -0.0
    assert list(differences(one, same)) == [".a.0"]
    same["a"][1]["b"][2] = np.nextafter(2.0, 3)
    assert list(differences(one, same)) == [".a.0", ".a.1.b"]
    same["c"] = 1
    assert ".c: only in one of them" in list(differences(one, same))


def test_the_state_of_an_apple_gpu_is_kept_and_set(monkeypatch):
    states = [torch.tensor([7], dtype=torch.uint8)]
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: states[-1])
    monkeypatch.setattr(torch.mps, "set_rng_state", states.append)
    kept = random_state()
    states.append(torch.tensor([8], dtype=torch.uint8))
    set_random_state(kept)
    assert states[-1].item() == 7


def test_a_run_that_starts_anew_has_no_curve_of_the_one_before(tmp_path):
    def log(run: str, epochs: range, by_epoch: bool = True) -> list[dict]:
        """Two lines of training an epoch, and an evaluation."""
        points = []
        for epoch in epochs:
            for step in (2 * epoch - 1, 2 * epoch):
                point = {"loss": 1.0, "iter": step, "step": step}
                points.append({**point, "epoch": epoch} if by_epoch else point)
            points.append({"knn_top1": 50.0, "step": epoch if by_epoch else 2 * epoch})
        (tmp_path / run / "vis_data").mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(point) + "\n" for point in points)
        (tmp_path / run / "vis_data" / "scalars.json").write_text(text)
        return points

    for by_epoch in (True, False):
        first, resumed = log("a", range(1, 4), by_epoch), log("b", range(4, 6), by_epoch)
        assert logged_points(tmp_path) == first + resumed
        again = log("b", range(3, 6), by_epoch)
        assert logged_points(tmp_path) == first[:6] + again
        again = log("b", range(1, 2), by_epoch)
        assert logged_points(tmp_path) == again


def test_logged_points_are_of_all_runs_and_none_is_half(tmp_path):
    for run, text in (("b", '{"step": 3}\n{"st'), ("a", '{"step": 1}\n{"step": 2}\n')):
        (tmp_path / run / "vis_data").mkdir(parents=True)
        (tmp_path / run / "vis_data" / "scalars.json").write_text(text)
    assert logged_points(tmp_path) == [{"step": 1}, {"step": 2}, {"step": 3}]
