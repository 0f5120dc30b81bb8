"""ADIOS's mask net: a U-Net from a view to soft slots."""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmsalmask.checks import check_integer, check_sides, is_integer
from mmsalmask.errors import InputError
from mmsalmask.registry import MODELS

_GROUPS = 8
_MLP_WIDTH = 128


@MODELS.register_module()
class MaskUNet(BaseModule):
    """Soft masks of S slots that share every pixel among them (Shi et al. 2022).

    Down blocks (3×3 convolution, GroupNorm of 8 groups, ReLU) halve the view between them, an MLP
    of three layers, 128 wide, mixes the coarsest map, and up blocks bring it back over the skip
    connections; a 1×1 head and a softmax over the slots follow. Resizing is by nearest neighbour.

    The paper has log2(size) − 1 down blocks for sizes that are powers of two. For others the
    logarithm of the shorter side is rounded down, halving rounds down as well (33 → 16), and an up
    block resizes to its skip, so any size works: the coarsest map is 4 to 7 pixels short. As in the
    original, which has 4, 5 or 6 blocks, the last three have twice ``channels``, those before them
    ``channels``; of three or fewer the first alone has ``channels``.

    Args:
        size: of the views, pixels per side or (height, width). The MLP fixes it.
        slots: S, at least two.
        channels: c, a multiple of the 8 groups.
        blocks: number of down blocks, instead of floor(log2(shorter side)) − 1.
        init_cfg: as in mmengine.

    Raises:
        InputError: for a size that leaves nothing of the coarsest map, fewer than two slots, or
            channels that the groups do not divide.
    """

    def __init__(
        self,
        size: int | tuple[int, int] = 224,
        slots: int = 6,
        channels: int = 16,
        blocks: int | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.size = check_sides("size", size, 1)
        if not is_integer(slots, 2):
            raise InputError(f"slots={slots!r}: a lone slot covers everything, give at least two")
        if not is_integer(channels, 1) or channels % _GROUPS:
            raise InputError(f"channels must be a multiple of {_GROUPS}, got {channels!r}")
        if blocks is not None:
            check_integer("blocks", blocks)
        blocks = max(min(self.size).bit_length() - 2, 0) if blocks is None else blocks
        coarsest = [side >> max(blocks - 1, 0) for side in self.size]
        if blocks < 1 or min(coarsest) < 1:
            raise InputError(
                f"views of {self.size[0]}×{self.size[1]} px cannot pass {blocks} down blocks: "
                "take views of 4 px at least, and no more blocks than leave a pixel"
            )
        widths = [channels if i < max(blocks - 3, 1) else 2 * channels for i in range(blocks)]
        self.down = nn.ModuleList(
            _block(before, after) for before, after in zip([3, *widths], widths, strict=False)
        )
        self.mlp = _mlp(widths[-1] * coarsest[0] * coarsest[1])
        # The coarsest first: each takes what comes from below beside its skip.
        outs = [*reversed(widths[:-1]), channels]
        below = [widths[-1], *outs[:-1]]
        self.up = nn.ModuleList(
            _block(under + skip, out)
            for under, skip, out in zip(below, widths[::-1], outs, strict=True)
        )
        self.head = nn.Conv2d(channels, slots, 1)

    def forward(self, views: Tensor) -> Tensor:
        """Soft masks of a batch of views.

        Args:
            views: (N, 3, H, W) of the size given.

        Returns:
            float32 (N, S, H, W), in [0, 1]; the slots of a pixel sum to one.

        Raises:
            InputError: for views of another size.
        """
        if tuple(views.shape[-2:]) != self.size:
            raise InputError(
                f"the mask net is built for views of {self.size}, got {tuple(views.shape[-2:])}: "
                "set model.mask_net.size to the size of the crops"
            )
        skips = []
        features = views
        for i, block in enumerate(self.down):
            if i:
                features = F.interpolate(features, [side // 2 for side in features.shape[-2:]])
            features = block(features)
            skips.append(features)
        features = self.mlp(features.flatten(1)).view_as(features)
        for block, skip in zip(self.up, reversed(skips), strict=True):
            features = F.interpolate(features, skip.shape[-2:])
            features = block(torch.cat([features, skip], dim=1))
        return self.head(features).float().softmax(dim=1)


def _block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False),
        nn.GroupNorm(_GROUPS, after),
        nn.ReLU(inplace=True),
    )


def _mlp(features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(features, _MLP_WIDTH),
        nn.ReLU(inplace=True),
        nn.Linear(_MLP_WIDTH, _MLP_WIDTH),
        nn.ReLU(inplace=True),
        nn.Linear(_MLP_WIDTH, features),
        nn.ReLU(inplace=True),
    )
