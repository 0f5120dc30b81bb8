"""Two processes of one run, joined by gloo: what has to differ between them, and what may not."""

import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from mmsalmask.config import load_config
from mmsalmask.data.demo import draw_demo_set
from mmsalmask.engine.launch import build_runner

DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo"
TINY = {
    "model.backbone.base_channels": 8,
    "model.backbone.stem_channels": 8,
    "model.neck.in_channels": 64,
    "model.neck.hid_channels": 8,
    "model.queue_len": 100,
    "train_dataloader.batch_size": 3,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "model.data_preprocessor.augment.view.size": 32,
    "train_cfg.max_epochs": 1,
    "default_hooks.logger.interval": 1,
}
ADIOS = {"model.mask_net.size": 32, "model.mask_net.channels": 8}
# Iterations, of three images in each process, and those that make a step.
ITERATIONS, ACCUMULATED = 4, 3


class Watch(Hook):
    """Keeps what the encoder started from, each query's mask and pixels, and momentum's moves."""

    def before_train(self, runner) -> None:
        self.start = {k: v.clone() for k, v in runner.plain_model.state_dict().items()}
        self.masks, self.queries, self.moves, self.images = [], [], [], []
        masker = runner.plain_model.data_preprocessor.masker
        if masker is not None:
            masker.register_forward_hook(self.keep)
        momentum = runner.plain_model._momentum_now
        runner.plain_model._momentum_now = lambda: (self.moves.append(runner.iter), momentum())[1]

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.images += [sample.img_path for sample in data_batch["data_samples"]]

    def keep(self, masker, plain, masked) -> None:
        self.masks.append(masked.query_mask.clone())
        self.queries.append(masked.query.clone())


def work(rank: int, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    place = dict(
        RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=port
    )
    os.environ.update({name: str(value) for name, value in place.items()})
    found = {}
    for name, recipe, options in (
        ("usual", "mocov2-mscn", {}),
        ("alike", "mocov2-mscn", {"randomness.diff_rank_seed": False}),
        ("adios", "adios-s-mocov2", ADIOS),
    ):
        settings = {**TINY, **options, "data_root": f"{folder}/images/train"}
        if name != "adios":
            settings["optim_wrapper.accumulative_counts"] = ACCUMULATED
        config = load_config(str(DEMO / f"{recipe}_resnet18_demo.py"), settings)
        config.work_dir, config.launcher = f"{folder}/{name}", "pytorch"
        runner, watch = build_runner(config), Watch()
        runner.register_hook(watch)
        runner.train()
        found[name] = {**vars(watch), "end": runner.plain_model.state_dict()}
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("two_processes")
    draw_demo_set(folder / "images", images_per_class=12, classes=("disk", "bars"), size=40)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        # The server imports the libraries once and is forked for every process.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["mmsalmask.engine.launch"])
        started = [context.Process(target=work, args=(r, str(folder), port)) for r in range(2)]
        for process in started:
            process.start()
        for process in started:
            process.join(240)
            process.kill()  # nothing happens where it has ended
    assert [process.exitcode for process in started] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def test_each_process_draws_masks_and_noise_of_its_own(ranks):
    for run, same in (("usual", False), ("alike", True)):
        first, second = (rank[run] for rank in ranks)
        assert not set(first["images"]) & set(second["images"])
        assert len(first["masks"]) == len(second["masks"]) == ITERATIONS
        for one, other in zip(first["masks"], second["masks"], strict=True):
            assert torch.equal(one, other) == same
        both = [a & b for a, b in zip(first["masks"], second["masks"], strict=True)]
        where = [mask.expand_as(query) for mask, query in zip(both, first["queries"], strict=True)]
        noise = [
            torch.cat(
                [query[mask] for query, mask in zip(rank[run]["queries"], where, strict=True)]
            )
            for rank in ranks
        ]
        assert noise[0].numel() > 100
        assert torch.equal(*noise) == same


def test_the_images_of_a_run_do_not_depend_on_its_processes_drawing_alike(ranks):
    for rank in ranks:
        assert rank["usual"]["images"] == rank["alike"]["images"]


@pytest.mark.parametrize("run", ["usual", "adios"])
def test_processes_that_draw_apart_start_alike_and_stay_so(ranks, run):
    compared = 0
    for when in ("start", "end"):
        first, second = (rank[run][when] for rank in ranks)
        for name, value in first.items():
            if "running_" in name and when == "end":  # each process's own
                continue
            assert torch.equal(value, second[name]), (when, name)
            compared += 1
    assert compared > 200
    assert any("queue" in name for name in first)


def test_the_momentum_encoder_moves_once_per_step_under_ddp(ranks):
    for rank in ranks:
        assert rank["usual"]["moves"] == [0, 3]
        assert rank["adios"]["moves"] == list(range(ITERATIONS))
