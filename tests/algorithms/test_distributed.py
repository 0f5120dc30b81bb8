"""Real processes joined by gloo compute what one computes on the joined batch."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from PIL import Image

from mmsalmask.algorithms import MaskedMoCo, moco
from mmsalmask.algorithms import distributed as ours

ROOT = Path(__file__).resolve().parents[2]
LOCAL = 3  # rows of each process
MASKER = dict(
    type="mmsalmask.SaliencyMasker",
    strategy=dict(type="mmsalmask.MeanFill"),
    localizer=dict(type="mmsalmask.BoundaryPriorSaliency"),
    grid=4,
)


def build(norm: dict, masker: dict | None = None, queue_len: int = 10, seed: int = 0):
    torch.manual_seed(seed)
    model = MaskedMoCo(
        backbone=dict(
            type="mmpretrain.ResNet", depth=18, base_channels=8, stem_channels=8, norm_cfg=norm
        ),
        neck=dict(
            type="mmpretrain.MoCoV2Neck",
            in_channels=64,
            hid_channels=16,
            out_channels=8,
            with_avg_pool=True,
        ),
        head=dict(type="mmsalmask.HardNegativeContrastiveHead"),
        queue_len=queue_len,
        feat_dim=8,
        momentum=0.9,
        data_preprocessor=dict(type="mmsalmask.MaskingDataPreprocessor", masker=masker),
    )
    model.init_weights()
    return model


def joined_views(step: int) -> list[torch.Tensor]:
    """Query, key and hard negative of both processes' images, in the order of the ranks."""
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(2 * LOCAL, 3, 32, 32, generator=generator) for _ in range(3)]


def two_steps(model: MaskedMoCo, own: slice) -> dict:
    """Losses, gradients and the queue of two steps of SGD on a part of the joined batch.

    The two ranks' batches go around the end of the queue in the second step. GroupNorm, because
    BatchNorm would take its statistics from each process's own part (and gloo has no SyncBN):
    only a net without batch statistics can agree to the last digits.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inner = model.module if hasattr(model, "module") else model
    found = {"losses": [], "gradients": [], "queues": []}
    for step in range(2):
        optimizer.zero_grad()
        loss = model([view[own] for view in joined_views(step)], mode="loss")["loss"]
        loss.backward()
        optimizer.step()
        found["losses"].append(loss.detach())
        grads = {n: p.grad.clone() for n, p in inner.named_parameters() if p.grad is not None}
        found["gradients"].append(grads)
        found["queues"].append((inner.queue.clone(), inner.queue_pointer.clone()))
    return found


def shuffles(rank: int) -> list[dict]:
    rounds = []
    for seed in range(5):
        torch.manual_seed(10 * seed + rank)
        local = (
            (rank * LOCAL + torch.arange(LOCAL, dtype=torch.float32))
            .view(-1, 1, 1)
            .expand(-1, 2, 2)
        )
        dealt, order = ours.shuffle_batch(local)
        back = ours.unshuffle_batch(10 * dealt, order)
        rounds.append(dict(local=local.clone(), dealt=dealt, order=order, back=back))
    return rounds


def train_batchnorm_net(rank: int) -> dict:
    """Five steps of the masked model; the processes start from different seeds and data."""
    # Of 40 rows of the queue 30 are written: the others show how it began.
    model = parallel(build(dict(type="BN"), MASKER, queue_len=40, seed=rank))
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))
    start = [p.detach().clone() for p in model.module.backbone.parameters()]
    for _ in range(5):
        views = [torch.randint(0, 256, (LOCAL, 3, 32, 32), dtype=torch.uint8) for _ in range(2)]
        model.train_step({"inputs": views, "data_samples": None}, optim_wrapper=wrapper)
    end = model.module.backbone.parameters()
    moved = any(not torch.equal(a, b) for a, b in zip(start, end, strict=True))
    return dict(state=model.module.state_dict(), moved=moved)


def parallel(model: MaskedMoCo) -> MMDistributedDataParallel:
    """Wrap a model as mmengine's Runner does: rank 0's weights and queue are everybody's."""
    for value in model.state_dict().values():
        dist.broadcast(value, src=0)
    return MMDistributedDataParallel(model, broadcast_buffers=False)


def groupnorm_net(rank: int) -> MMDistributedDataParallel:
    return parallel(build(dict(type="GN", num_groups=4), seed=rank))


def gather_in_wrong_order(local):
    return torch.cat(ours.all_gather(local.contiguous())[::-1])


def leave_shuffled(local, order):
    return ours._exchange(local, back=True)


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    own = slice(rank * LOCAL, (rank + 1) * LOCAL)
    found = dict(
        gathered=ours.gather(torch.tensor([[rank, 1.0], [rank, 2.0]])),
        shuffles=shuffles(rank),
        trained=train_batchnorm_net(rank),
        steps=two_steps(groupnorm_net(rank), own),
    )
    moco.gather = gather_in_wrong_order
    found["wrong_gather"] = two_steps(groupnorm_net(rank), own)
    moco.gather, moco.unshuffle_batch = ours.gather, leave_shuffled
    found["wrong_unshuffle"] = two_steps(groupnorm_net(rank), own)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("two_processes")
    torch.multiprocessing.spawn(work, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(scope="module")
def alone() -> dict:
    return two_steps(build(dict(type="GN", num_groups=4)), slice(None))


# ------------------------------------------------------------------------------------ rows


def test_gather_joins_the_rows_in_the_order_of_the_ranks(ranks):
    expected = torch.tensor([[0.0, 1], [0, 2], [1, 1], [1, 2]])
    for found in ranks:
        assert torch.equal(found["gathered"], expected)


def test_a_single_process_gathers_and_shuffles_nothing():
    rows = torch.randn(4, 2)
    assert torch.equal(ours.gather(rows), rows)
    dealt, order = ours.shuffle_batch(rows)
    assert torch.equal(dealt, rows)
    assert torch.equal(ours.unshuffle_batch(2 * dealt, order), 2 * rows)


def test_rows_are_dealt_over_the_processes_and_come_back_to_their_place(ranks):
    deals = []
    for first, second in zip(*(found["shuffles"] for found in ranks), strict=True):
        dealt = torch.cat([first["dealt"], second["dealt"]])[:, 0, 0].tolist()
        assert sorted(dealt) == list(range(2 * LOCAL))  # none twice, none lost
        # Of three rows a process keeps one and gives two away.
        assert (first["dealt"][:, 0, 0] >= LOCAL).sum() == 2
        assert (second["dealt"][:, 0, 0] >= LOCAL).sum() == 1
        for found in (first, second):
            assert torch.equal(found["back"], 10 * found["local"])
        deals.append(tuple(dealt))
    assert len(set(deals)) > 1


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("number", [1, 2, 5, 8, 32])
def test_shares_of_a_deal_agree_between_the_processes(processes, number):
    tables = [ours._shares(number, rank, processes) for rank in range(processes)]
    for rank, (sent, received) in enumerate(tables):
        assert sum(sent) == sum(received) == number
        assert received == [tables[other][0][rank] for other in range(processes)]
        assert max(sent) - min(sent) <= 1
        assert sent[rank] == min(sent)


# ------------------------------------------------------------------------------------ training


def test_parameters_momentum_encoder_and_queue_stay_identical(ranks):
    first, second = (found["trained"]["state"] for found in ranks)
    assert ranks[0]["trained"]["moved"]
    compared = 0
    for name, value in first.items():
        if "running_" in name:  # BatchNorm's statistics are each process's own
            continue
        assert torch.equal(value, second[name]), name
        compared += 1
    assert compared > 100
    assert first["queue_pointer"] == 5 * 2 * LOCAL


def test_one_step_equals_a_single_process_on_the_joined_batch(ranks, alone):
    for step in range(2):
        loss = torch.stack([found["steps"]["losses"][step] for found in ranks]).mean()
        assert loss.item() == pytest.approx(alone["losses"][step].item(), abs=1e-5)
        for found in ranks:
            gradients = found["steps"]["gradients"][step]
            assert gradients.keys() == alone["gradients"][step].keys()
            for name, gradient in alone["gradients"][step].items():
                torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=1e-3)


def test_the_queue_is_filled_in_the_order_of_a_single_process(ranks, alone):
    for step in range(2):
        queue, pointer = alone["queues"][step]
        for found in ranks:
            torch.testing.assert_close(found["steps"]["queues"][step][0], queue, atol=1e-5, rtol=0)
            assert found["steps"]["queues"][step][1] == pointer
    assert alone["queues"][1][1] == 2  # around the end


def test_a_wrong_order_would_be_noticed(ranks, alone):
    queue = ranks[0]["wrong_gather"]["queues"][0][0]
    assert (queue - alone["queues"][0][0]).abs().max() > 1e-2
    losses = [found["wrong_unshuffle"]["losses"][0] for found in ranks]
    assert abs(torch.stack(losses).mean() - alone["losses"][0]) > 1e-3


# ------------------------------------------------------------------------------------ any number

ROWS = 8
STEPS = {1: 1, 2: 100, 4: 20}  # by the number of processes


def train_in_one_of(processes: int, rank: int, folder: str) -> None:
    """The first gradient, and the queue after many steps, saved to ``<rank>.pt``."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=processes
    )
    model, found = groupnorm_net(rank), {}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(STEPS[processes]):
        generator = torch.Generator().manual_seed(step)
        views = [torch.randn(ROWS, 3, 16, 16, generator=generator) for _ in range(5)]
        optimizer.zero_grad()
        *views, first, second = (view.chunk(processes)[rank] for view in views)
        loss = model(views, mode="loss", local_crops=torch.cat([first, second]))["loss"]
        loss.backward()
        if step == 0:
            named = model.module.named_parameters()
            gradients = {n: p.grad.clone() for n, p in named if p.grad is not None}
            first = model.module.queue.clone()
            found = dict(loss=loss.detach(), gradients=gradients, first_queue=first)
        optimizer.step()
    found.update(queue=model.module.queue, pointer=model.module.queue_pointer)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def train_in(processes: int, folder: Path) -> list[dict]:
    folder.mkdir()
    # The server imports the libraries once and is forked for every process.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mmsalmask.algorithms"])
    started = [
        context.Process(target=train_in_one_of, args=(processes, rank, str(folder)))
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(240)
        process.kill()  # nothing happens where it has ended
    assert [process.exitcode for process in started] == [0] * processes
    return [torch.load(folder / f"{rank}.pt") for rank in range(processes)]


def test_one_two_and_four_processes_train_alike(tmp_path):
    (alone,) = train_in(1, tmp_path / "1")
    for processes in (2, 4):
        found = train_in(processes, tmp_path / str(processes))
        loss = torch.stack([one["loss"] for one in found]).mean()
        assert loss.item() == pytest.approx(alone["loss"].item(), abs=1e-5)
        for one in found:
            assert one["gradients"].keys() == alone["gradients"].keys()
            for name, gradient in alone["gradients"].items():
                torch.testing.assert_close(one["gradients"][name], gradient, atol=1e-5, rtol=1e-3)
            torch.testing.assert_close(one["first_queue"], alone["first_queue"], atol=1e-5, rtol=0)
            # To the last bit among the processes, whatever the sums' order does to their number.
            assert torch.equal(one["queue"], found[0]["queue"])
            assert one["pointer"] == STEPS[processes] * ROWS % 10
        assert (found[0]["queue"] - found[0]["first_queue"]).abs().max() > 1e-2


# ------------------------------------------------------------------------------------ the tool


def torchrun(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return subprocess.run(
        [*command, str(ROOT / "tools" / "train.py"), *arguments, "--launcher", "pytorch"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )


@pytest.mark.slow
def test_the_demo_trains_and_resumes_in_two_processes(tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(24):
        pixels = random.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    config = ROOT / "configs" / "demo" / "mocov2-salmask-mean_resnet18_demo.py"
    work_dir = tmp_path / "work"
    options = [
        f"data_root={tmp_path / 'images'}",
        "train_dataloader.batch_size=6",
        "train_dataloader.num_workers=0",
        "train_dataloader.persistent_workers=False",
        "model.data_preprocessor.augment.view.size=32",
        "model.queue_len=32",
        "default_hooks.checkpoint.interval=1",
    ]
    common = [str(config), "--work-dir", str(work_dir), "--cfg-options", *options]
    done = torchrun(*common, "train_cfg.max_epochs=1")
    assert done.returncode == 0, done.stderr[-3000:]
    first = torch.load(work_dir / "epoch_1.pth", weights_only=False)
    assert first["meta"]["iter"] == 2
    assert first["state_dict"]["queue_pointer"] == 24
    assert "backbone.conv1.weight" in first["state_dict"]  # without the wrapper's prefix
    assert not [name for name in first["state_dict"] if "localizer" in name]
    done = torchrun(*common, "train_cfg.max_epochs=2", "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    second = torch.load(work_dir / "epoch_2.pth", weights_only=False)
    assert second["meta"]["iter"] == 4
    assert second["state_dict"]["queue_pointer"] == 16
