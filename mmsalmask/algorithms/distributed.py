"""Gathering and batch shuffling across processes, on any backend and device."""

import torch
import torch.distributed as dist
from mmengine.dist import all_gather, all_reduce, get_comm_device, get_rank, get_world_size
from torch import Tensor


def gather(local: Tensor) -> Tensor:
    """Concatenate a tensor of every process along the first dimension, without gradient."""
    if get_world_size() == 1:
        return local
    return torch.cat(all_gather(local.contiguous()))


def gather_rows(local: Tensor) -> Tensor:
    """Concatenate tensors (N, …) of every process, whose N may differ, without gradient."""
    if get_world_size() == 1:
        return local
    numbers = gather(torch.tensor([len(local)], device=local.device)).tolist()
    padding = local.new_zeros(max(numbers) - len(local), *local.shape[1:])
    parts = all_gather(torch.cat([local, padding]))
    return torch.cat([part[:number] for part, number in zip(parts, numbers, strict=True)])


def gather_with_gradient(local: Tensor) -> Tensor:
    """Concatenate a tensor of every process along the first dimension, with gradient.

    The backward pass sums what all processes' losses ask of a row and hands it to the process the
    row came from. So if the loss of a joined batch is the mean of the processes' losses, the mean
    of their gradients (what DDP takes) is its gradient. Keeping each process's own share only, as
    gathers often do, would divide it by the number of processes.

    Args:
        local: (N, …), the same N in every process.
    """
    return local if get_world_size() == 1 else _Gather.apply(local)


def of_other_processes(local: Tensor) -> Tensor:
    """What every other process holds of a tensor (N, D), with gradient: (N·(processes − 1), D)."""
    joined = gather_with_gradient(local)
    start = get_rank() * len(local)
    return torch.cat([joined[:start], joined[start + len(local) :]])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, local: Tensor) -> Tensor:
        return gather(local)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        all_reduce(total)
        return _own(total, len(total) // get_world_size())


def shuffle_batch(local: Tensor, alone: bool = False) -> tuple[Tensor, Tensor]:
    """Deal the joined batch anew over the processes, so that BatchNorm cannot tell who is whose.

    A query and its key would otherwise share their batch's statistics, and the encoder would cheat
    (He et al. 2020, §3.3). In a single process there is nothing to deal, unless BatchNorm takes the
    statistics of groups.

    Each process draws which of its rows go where and sends every process the same share, in one
    all-to-all. It receives N rows, whatever the number of processes. MoCo's own code gathers the
    joined batch everywhere and keeps one row in n.

    Args:
        local: (N, …), the same N in every process.
        alone: permute the batch of a single process, too.

    Returns:
        This process's new (N, …), and the permutation to hand to :func:`unshuffle_batch`.
    """
    if get_world_size() == 1 and not alone:
        return local, torch.arange(len(local), device=local.device)
    order = torch.randperm(len(local), device=local.device)
    return _exchange(local[order]), order


def unshuffle_batch(local: Tensor, order: Tensor) -> Tensor:
    """Bring (N, …) outputs of a shuffled batch back to the process and row of their inputs."""
    return _exchange(local, back=True)[order.argsort()]


def _exchange(local: Tensor, back: bool = False) -> Tensor:
    """Send each process its share of the rows, in the order of the ranks, or take them back."""
    if get_world_size() == 1:
        return local
    sent, received = _shares(len(local), get_rank(), get_world_size())
    if back:
        sent, received = received, sent
    rows = local.contiguous().to(get_comm_device())
    found = torch.empty_like(rows)
    dist.all_to_all_single(found, rows, received, sent)
    return found.to(local.device)


def _shares(number: int, rank: int, processes: int) -> tuple[list[int], list[int]]:
    """How many of its rows a process sends to each, and how many it receives from each.

    What is left over of equal shares goes to the next ranks, so that no process keeps more of its
    own rows than it gives to any other.
    """
    share, rest = divmod(number, processes)

    def share_of(source: int, target: int) -> int:
        return share + ((target - source - 1) % processes < rest)

    sent = [share_of(rank, other) for other in range(processes)]
    return sent, [share_of(other, rank) for other in range(processes)]


def _own(joined: Tensor, number: int) -> Tensor:
    return joined[get_rank() * number : (get_rank() + 1) * number]
