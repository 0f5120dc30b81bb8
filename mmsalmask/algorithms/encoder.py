"""What the algorithms share: the parts of an encoder, embeddings, and running statistics."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmsalmask.checks import check_part


def check_encoder(backbone: Any, neck: Any, head: Any) -> None:
    """Refuse an algorithm that lacks one of these, each a config or a module.

    Raises:
        InputError: names the part.
    """
    for name, part in (("backbone", backbone), ("neck", neck), ("head", head)):
        if not isinstance(part, nn.Module):
            check_part(f"model.{name}", part)


def embed(encoder: nn.Module, views: Tensor) -> Tensor:
    """ℓ2-normalised float32 embeddings (N, D) of views (N, 3, H, W)."""
    (embedding,) = encoder(views)
    return F.normalize(embedding.float(), dim=1)


@contextmanager
def kept_statistics(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Leave the running statistics of every BatchNorm, ``SyncBN`` included, as they are.

    In train mode it still normalises by the batch. ``torch.compile`` keeps a graph for either case.
    """
    norms = [
        module
        for part in parts
        for module in part.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
