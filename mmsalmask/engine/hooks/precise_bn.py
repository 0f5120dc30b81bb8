"""Statistics of BatchNorm for the weights as they are, estimated before an evaluation."""

from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS
from mmengine.runner import IterBasedTrainLoop
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import BatchSampler, DataLoader

from mmsalmask.checks import check_integer
from mmsalmask.engine.models import unwrapped
from mmsalmask.engine.resume.draws import seeded_loader, unseeded
from mmsalmask.engine.resume.randomness import kept_random_state
from mmsalmask.errors import InputError
from mmsalmask.registry import HOOKS


@HOOKS.register_module()
class PreciseBNHook(Hook):
    """Replace running statistics by means over training batches, before each evaluation.

    Running statistics follow the weights with a lag. Here the mean and the variance of each layer
    are averaged over batches that the present weights see (Wu and Johnson, "Rethinking 'Batch' in
    BatchNorm"), as detectron2 does with ``TEST.PRECISE_BN``, which MoCo's detectors use: whenever
    an evaluation is due and after the last iteration, ahead of the checkpoint, which holds them.
    Layers that are not in training mode, such as frozen ones, keep theirs. Weights do not change,
    and training draws the same random numbers as without.

    mmpretrain's hook of this name is for classifiers: it needs a loader with a fixed batch size.

    Args:
        iterations: training batches of an estimate in each process; detectron2 has 200.

    Raises:
        InputError: at the start of a training by epochs.
    """

    priority = "NORMAL"  # before the checkpoint is written

    def __init__(self, iterations: int = 200) -> None:
        self.iterations = check_integer("iterations", iterations)

    def before_train(self, runner) -> None:
        if not isinstance(runner.train_loop, IterBasedTrainLoop):
            raise InputError(
                "mmsalmask.PreciseBNHook is for training by iterations: take "
                "mmpretrain.PreciseBNHook, or remove it from custom_hooks"
            )

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        loop, reached = runner.train_loop, runner.iter + 1
        due = reached >= loop.val_begin and reached % loop.val_interval == 0
        if not due and reached < loop.max_iters:
            return
        model = unwrapped(runner.model)
        with kept_random_state():
            batches = islice(_fresh_loader(runner, runner.seed + reached), self.iterations)
            with runner.optim_wrapper.optim_context(runner.model):
                count = estimate_statistics(model, batches)
        runner.logger.info(f"BatchNorm's statistics estimated on {count} batches")


def _fresh_loader(runner, seed: int) -> DataLoader:
    """Batches of the training set in an order of their own: training goes on in its own."""
    loader, settings = runner.train_dataloader, runner._train_dataloader
    dataset = unseeded(loader.dataset)
    sampler = DATA_SAMPLERS.build(
        settings["sampler"], default_args={"dataset": dataset, "seed": seed}
    )
    size = settings["batch_size"]
    batches = BatchSampler(sampler, size, drop_last=True)
    if settings.get("batch_sampler"):
        own = {"sampler": sampler, "batch_size": size}
        batches = DATA_SAMPLERS.build(settings["batch_sampler"], default_args=own)
    fresh = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
    )
    return seeded_loader(fresh, seed)


@torch.no_grad()
def estimate_statistics(model: nn.Module, batches: Iterable[Any]) -> int:
    """Set running means and variances to their averages over batches, and over processes.

    Args:
        model: an mmengine model in training mode, without wrapper; its ``loss`` is computed.
        batches: as a loader gives them, as many in every process.

    Returns:
        How many batches there were; of none, nothing changes.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
    norms = [norm for norm in norms if norm.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    sums = [torch.zeros(2, norm.num_features, device=norm.running_mean.device) for norm in norms]
    count = 0
    try:
        for norm in norms:
            norm.momentum = 1.0  # what it tracks are then the statistics of the last batch
        for batch in batches if norms else ():
            model(**model.data_preprocessor(batch, True), mode="loss")
            for norm, total in zip(norms, sums, strict=True):
                total += torch.stack([norm.running_mean, norm.running_var])
            count += 1
    finally:
        for norm, (momentum, tracked) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(tracked)
    for norm, total in zip(norms, sums, strict=True) if count else ():
        all_reduce(total, "mean")
        norm.running_mean.copy_(total[0] / count)
        norm.running_var.copy_(total[1] / count)
    return count
