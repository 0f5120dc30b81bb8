"""Broken images in a run: named once, summed up at its end, and a stop when they are too many."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from PIL import Image

from mmsalmask.data import ImageFolder
from mmsalmask.engine import BrokenImagesHook
from mmsalmask.errors import InputError


def make_folder(folder: Path, count: int, broken: tuple[int, ...]) -> Path:
    folder.mkdir(exist_ok=True)
    for i in range(count):
        path = folder / f"{i:04d}.png"
        Image.fromarray(np.full((8, 8, 3), i % 256, np.uint8)).save(path)
        if i in broken:
            path.write_bytes(path.read_bytes()[:30])
    return folder


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.steps = 0

    def forward(self, inputs, mode="tensor"):
        self.steps += 1
        loss = self.weight * inputs.float().mean()
        return {"loss": loss} if mode == "loss" else [loss]


class Metric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return {"count": len(results)}


def only_the_image(results):
    return {"inputs": torch.from_numpy(results["img"])}


def image_folder(folder: Path) -> ImageFolder:
    return ImageFolder(str(folder), [{"type": "mmsalmask.LoadImage"}, only_the_image])


def loader(dataset, workers: int = 0) -> dict:
    return {
        "batch_size": 4,
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "collate_fn": {"type": "default_collate"},
        "dataset": dataset,
    }


def run(tmp_path, dataset, workers=0, epochs=1, validate=None, **options):
    """Train; return the model, the log's text and the error that stopped the run, if any."""
    validation = {}
    if validate is not None:
        validation = {
            "val_dataloader": loader(validate),
            "val_cfg": {},
            "val_evaluator": [Metric()],
        }
    model = Model()
    runner = Runner(
        model,
        work_dir=str(tmp_path / "work"),
        train_dataloader=loader(dataset, workers),
        train_cfg={"by_epoch": True, "max_epochs": epochs},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.0}},
        custom_hooks=[{"type": "mmsalmask.BrokenImagesHook", **options}],
        default_hooks={"checkpoint": None, "logger": {"type": "LoggerHook", "interval": 1000}},
        experiment_name=f"broken_{np.random.default_rng().integers(2**40)}",
        default_scope="mmpretrain",
        **validation,
    )
    try:
        runner.train()
    except InputError as caught:
        error = str(caught)
    else:
        error = None
    logging.getLogger("mmengine").handlers.clear()
    text = "\n".join(path.read_text() for path in (tmp_path / "work").rglob("*.log"))
    return model, text, error


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_named_once_and_listed_at_the_end(tmp_path, workers):
    folder = make_folder(tmp_path / "images", 40, broken=(3, 21))
    model, text, error = run(
        tmp_path, image_folder(folder), workers, epochs=3, limit=0.05, interval=2
    )
    assert error is None
    assert model.steps == 30
    for name in ("0003.png", "0021.png"):
        assert len(re.findall(rf"broken image .*{name}: \S", text)) == 1
    summary = text[text.index("2 of 40 images could not be read") :]
    assert "0003.png: " in summary
    assert "0021.png: " in summary


def test_a_sound_folder_is_not_worth_a_line(tmp_path):
    folder = make_folder(tmp_path / "images", 8, broken=())
    _, text, error = run(tmp_path, image_folder(folder), interval=1)
    assert error is None
    assert "broken image" not in text
    assert "could not be read" not in text


@pytest.mark.parametrize(("broken", "stopped"), [((7,), False), ((7, 9), True)])
def test_more_than_one_percent_stops_the_run_with_the_list(tmp_path, broken, stopped):
    folder = make_folder(tmp_path / "images", 100, broken)
    model, _, error = run(tmp_path, image_folder(folder), interval=4)
    if not stopped:
        assert error is None
        assert model.steps == 25
        return
    # The two lie in the second and third batch of four, and the hook looks after the fourth.
    assert model.steps == 4
    first, *rest = error.splitlines()
    assert first.startswith("2 of 100 images cannot be read, more than the 1 %")
    assert first.endswith("repair or remove them")
    assert [Path(line.split(": ")[0]).name for line in rest] == ["0007.png", "0009.png"]
    assert all(line.split(": ", 1)[1] for line in rest)


def test_the_end_of_an_epoch_is_looked_at_whatever_the_interval(tmp_path):
    folder = make_folder(tmp_path / "images", 8, broken=(1,))
    model, _, error = run(tmp_path, image_folder(folder), epochs=2)
    assert "1 of 8 images" in error
    assert model.steps == 2


def test_a_long_list_is_cut_in_the_error_and_complete_in_the_log(tmp_path):
    folder = make_folder(tmp_path / "images", 60, broken=tuple(range(0, 50, 2)))
    _, text, error = run(tmp_path, image_folder(folder))
    assert "25 of 60 images" in error
    assert len(error.splitlines()) == 22
    assert error.endswith("and 5 more, all named in the log")
    assert len(re.findall("broken image ", text)) == 25


def test_wrapped_and_joined_folders_are_looked_through(tmp_path):
    one = image_folder(make_folder(tmp_path / "one", 10, broken=(2,)))
    two = image_folder(make_folder(tmp_path / "two", 10, broken=(4,)))
    # mmengine's own wrappers do not nest; PyTorch's do.
    dataset = torch.utils.data.ConcatDataset([RepeatDataset(one, times=2), ConcatDataset([two])])
    _, text, error = run(tmp_path, torch.utils.data.Subset(dataset, range(30)), limit=0.1)
    assert error is None
    assert "2 of 20 images could not be read" in text


def test_a_replaced_image_in_validation_is_an_error(tmp_path):
    sound = image_folder(make_folder(tmp_path / "sound", 4, broken=()))
    damaged = image_folder(make_folder(tmp_path / "damaged", 4, broken=(2,)))
    _, _, error = run(tmp_path, sound, validate=damaged)
    assert "1 images of the evaluation cannot be read" in error
    assert "0002.png: " in error


def test_a_file_repaired_meanwhile_is_still_reported(tmp_path):
    folder = make_folder(tmp_path / "images", 4, broken=(2,))
    dataset = image_folder(folder)
    dataset[2]
    make_folder(folder, 4, broken=())
    _, text, _ = run(tmp_path, dataset, limit=1.0)
    assert "0002.png: failed once, readable now" in text


def test_senseless_settings_are_refused():
    with pytest.raises(InputError, match=r"limit, a share .* got 1\.5"):
        BrokenImagesHook(limit=1.5)
    with pytest.raises(InputError, match="interval must be an integer of at least 1"):
        BrokenImagesHook(interval=0)


class Stub:
    """As much of a runner as the hook looks at."""

    def __init__(self, dataset):
        self.iter = 0
        self.logger = logging.getLogger("stub")
        self.train_dataloader = type("Loader", (), {"dataset": dataset})


def look_in_one_of_two(rank: int, folder: str, store: str, answers) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2
    )
    dataset = image_folder(Path(folder))
    dataset[rank]  # rank 0 meets one broken image, rank 1 another
    dataset[5]  # both meet this one, and it counts once
    hook = BrokenImagesHook(limit=0.3, interval=1)
    runner = Stub(dataset)
    hook.after_train_iter(runner, 0)
    answers.put((rank, sorted(Path(path).name for path in dataset.broken_files())))
    if rank == 1:
        dataset[3]
    try:
        hook.after_train_iter(runner, 1)
    except InputError as error:
        answers.put((rank, str(error).splitlines()[0]))
    torch.distributed.destroy_process_group()


def test_two_processes_stop_together_on_what_both_found(tmp_path):
    folder = make_folder(tmp_path / "images", 10, broken=(0, 1, 3, 5))
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [
        context.Process(
            target=look_in_one_of_two, args=(rank, str(folder), str(tmp_path / "store"), answers)
        )
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in range(4)]
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    for rank in range(2):
        marks, stop = [answer for of, answer in found if of == rank]
        assert marks == ["0000.png", "0001.png", "0005.png"]
        assert stop.startswith("4 of 10 images cannot be read")
