"""Batch shuffling across processes, on any backend and device."""

import torch
from mmengine.dist import all_gather, broadcast, get_rank, get_world_size
from torch import Tensor


def gather(local: Tensor) -> Tensor:
    """Concatenate a tensor of every process along the first dimension, without gradient."""
    if get_world_size() == 1:
        return local
    return torch.cat(all_gather(local.contiguous()))


def shuffle_batch(local: Tensor) -> tuple[Tensor, Tensor]:
    """Deal the joined batch anew over the processes, so that BatchNorm cannot tell who is whose.

    A query and its key would otherwise share their batch's statistics, and the encoder would cheat
    (He et al. 2020, §3.3). In a single process there is nothing to deal.

    Args:
        local: (N, …), the same N in every process.

    Returns:
        This process's new (N, …), and the permutation to hand to :func:`unshuffle_batch`.
    """
    joined = gather(local)
    if get_world_size() == 1:
        return local, torch.arange(len(local), device=local.device)
    order = torch.randperm(len(joined), device=local.device)
    broadcast(order, src=0)
    return joined[_own(order, len(local))], order


def unshuffle_batch(local: Tensor, order: Tensor) -> Tensor:
    """Bring (N, …) outputs of a shuffled batch back to the process and row of their inputs."""
    if get_world_size() == 1:
        return local
    joined = gather(local)
    return joined[_own(order.argsort(), len(local))]


def _own(order: Tensor, number: int) -> Tensor:
    return order[get_rank() * number : (get_rank() + 1) * number]
