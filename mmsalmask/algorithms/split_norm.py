"""BatchNorm in groups: what several processes do to a batch, in one."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmsalmask.errors import InputError


class _Split:
    """Normalises each of ``splits`` groups of a training batch by its own statistics.

    Image i belongs to group i mod ``splits``. The running statistics take the mean over the groups
    of what each would have made of them (MoCo's CIFAR recipe). Evaluation is that of the layer
    without groups, and so are the names and shapes of its state.

    Raises:
        InputError: for a batch that does not divide into groups of at least two.
    """

    splits: int

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        number, channels, *sides = x.shape
        if number % self.splits or number < 2 * self.splits:
            raise InputError(
                f"bn_splits={self.splits} needs batches that divide into {self.splits} groups of "
                f"at least two, got one of {number} images: set train_dataloader.batch_size to a "
                "multiple, with drop_last=True"
            )
        # Groups as channels: of a contiguous batch this is a view.
        grouped = x.reshape(number // self.splits, self.splits * channels, *sides)
        tracked = self.track_running_stats
        mean, variance = (
            self._repeat(statistic) if tracked else None
            for statistic in (self.running_mean, self.running_var)
        )
        out = F.batch_norm(
            grouped,
            mean,
            variance,
            self._repeat(self.weight),
            self._repeat(self.bias),
            True,
            self.momentum,
            self.eps,
        ).view(x.shape)
        if tracked:
            self.running_mean.copy_(mean.view(self.splits, channels).mean(0))
            self.running_var.copy_(variance.view(self.splits, channels).mean(0))
            self.num_batches_tracked.add_(1)
        if sides and x.is_contiguous(memory_format=torch.channels_last):
            out = out.contiguous(memory_format=torch.channels_last)
        return out

    def _repeat(self, values: Tensor | None) -> Tensor | None:
        return None if values is None else values.repeat(self.splits)


class SplitBatchNorm1d(_Split, nn.BatchNorm1d):
    """``BatchNorm1d`` in groups, for inputs (N, C)."""


class SplitBatchNorm2d(_Split, nn.BatchNorm2d):
    """``BatchNorm2d`` in groups, for inputs (N, C, H, W)."""


_SPLIT = {nn.BatchNorm1d: SplitBatchNorm1d, nn.BatchNorm2d: SplitBatchNorm2d}


def split_batch_norm(module: nn.Module, splits: int) -> None:
    """Let every BatchNorm layer of a module work in groups, in place; its state stays as it is.

    Raises:
        InputError: for a module without BatchNorm, a kind of it that has no groups, such as
            ``SyncBatchNorm``, and one without a momentum.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    others = sorted({type(layer).__name__ for layer in layers if type(layer) not in _SPLIT})
    if others or not layers:
        raise InputError(
            f"bn_splits={splits} divides BatchNorm1d and BatchNorm2d layers into groups, but the "
            f"encoder has {' and '.join(others) or 'none'}: set norm_cfg=dict(type='BN') in the "
            "backbone and dict(type='BN1d') in a neck that normalises, or bn_splits=1"
        )
    if any(layer.momentum is None for layer in layers):
        raise InputError(
            f"bn_splits={splits} takes BatchNorm layers that have a momentum, and the encoder has "
            "one with momentum=None: give it a number in norm_cfg, or set bn_splits=1"
        )
    for layer in layers:
        layer.__class__ = _SPLIT[type(layer)]
        layer.splits = splits
