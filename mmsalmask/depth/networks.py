"""The three networks of Monodepth2: encoder, depth decoder and pose network."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmpretrain.models import ResNet
from torch import Tensor, nn

from mmsalmask.checkpoint import backbone_state, check_matches, check_style, load_checkpoint
from mmsalmask.errors import InputError
from mmsalmask.registry import MODELS


@MODELS.register_module()
class ResNetPyramid(ResNet):
    """mmpretrain's ResNet that also hands out its stem: five maps, at strides 2, 4, 8, 16 and 32.

    Its tensors have mmpretrain's names. With ``init_cfg=dict(type='Pretrained', checkpoint=...)``
    it takes the backbone out of what ``tools/export_backbone.py`` wrote, a pretraining checkpoint,
    ``torchvision://resnet50`` or any other file that :func:`mmsalmask.checkpoint.backbone_state`
    understands. Other than mmengine's initialiser it refuses a file that does not fit completely.

    Args:
        depth: 18, 34, 50, 101 or 152.
        in_channels: 3, or a multiple for several images on top of each other: the first
            convolution's weights are then repeated and divided by their number, so that equal
            images give what one gave.
        stem_channels, base_channels, style, deep_stem: as in mmpretrain's ``ResNet``.
        init_cfg: as in mmengine.

    Raises:
        InputError: on initialisation, for a checkpoint of another architecture.
    """

    def __init__(
        self,
        depth: int,
        in_channels: int = 3,
        stem_channels: int = 64,
        base_channels: int = 64,
        style: str = "pytorch",
        deep_stem: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        if init_cfg is None:
            init_cfg = [
                dict(type="Kaiming", layer=["Conv2d"]),
                dict(type="Constant", val=1, layer=["_BatchNorm"]),
            ]
        super().__init__(
            depth,
            in_channels=in_channels,
            stem_channels=stem_channels,
            base_channels=base_channels,
            style=style,
            deep_stem=deep_stem,
            out_indices=(0, 1, 2, 3),
            init_cfg=init_cfg,
        )
        self.channels = (
            stem_channels,
            *(base_channels * self.expansion * 2**stage for stage in range(4)),
        )

    @property
    def is_pretrained(self) -> bool:
        """Whether the config names a checkpoint to start from."""
        return isinstance(self.init_cfg, dict) and self.init_cfg["type"] == "Pretrained"

    def init_weights(self) -> None:
        """Initialise at random, or from the checkpoint that ``init_cfg`` names."""
        if not self.is_pretrained:
            super().init_weights()
            return
        path = self.init_cfg["checkpoint"]
        checkpoint = load_checkpoint(path)
        check_style(self, checkpoint, str(path))
        state = backbone_state(checkpoint)
        first = "stem.0.conv.weight" if self.deep_stem else "conv1.weight"
        weight = state.get(first)
        wanted = self.state_dict()[first].shape[1]
        if weight is not None and wanted > weight.shape[1] and wanted % weight.shape[1] == 0:
            copies = wanted // weight.shape[1]
            state[first] = weight.repeat(1, copies, 1, 1) / copies
        check_matches(self, state, str(path))
        self.load_state_dict(state, strict=False)  # num_batches_tracked may be absent
        self._is_init = True

    def train(self, mode: bool = True) -> "ResNetPyramid":
        """Set the mode; mmpretrain's own returns nothing, where every module returns itself."""
        super().train(mode)
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) → maps (N, C_i, H/2, W/2) … (N, C_i, H/32, W/32)."""
        stem = self.stem(images) if self.deep_stem else self.relu(self.norm1(self.conv1(images)))
        maps = [stem]
        x = self.maxpool(stem)
        for name in self.res_layers:
            x = getattr(self, name)(x)
            maps.append(x)
        return tuple(maps)


class _ReflectConv(nn.Conv2d):
    """3×3 convolution that reflects the map at its border."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, padding_mode="reflect")


@MODELS.register_module()
class DepthDecoder(BaseModule):
    """From an encoder's pyramid to disparities at four scales (Godard et al. 2019, supplement).

    Five levels, from the coarsest: convolution, nearest ×2, the encoder's map of that size beside
    it, convolution. All convolutions are 3×3, reflect at the border and end in ELU; those that give
    a disparity end in a sigmoid.

    Args:
        in_channels: of the encoder's five maps, finest first.
        channels: of the five levels, finest first.
        init_cfg: as in mmengine.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if len(in_channels) != 5 or len(channels) != 5:
            raise InputError(
                "DepthDecoder joins five maps of an encoder at five levels, got "
                f"{len(in_channels)} maps and {len(channels)} levels"
            )
        coarser = (*channels[1:], in_channels[-1])
        skipped = (0, *in_channels[:-1])
        self.before = nn.ModuleList(map(_ReflectConv, coarser, channels))
        self.after = nn.ModuleList(
            _ReflectConv(own + skip, own) for own, skip in zip(channels, skipped, strict=True)
        )
        self.heads = nn.ModuleList(_ReflectConv(own, 1) for own in channels[:4])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Five maps at strides 2 … 32 → disparities (N, H/2^s, W/2^s) in [0, 1], s = 0 … 3.

        The sigmoid is float32 also under autocast: bfloat16 has 8 bits, too coarse for 1/disparity.
        """
        x = maps[-1]
        disparities = []
        for level in range(4, -1, -1):
            x = F.elu(self.before[level](x))
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            if level > 0:
                x = torch.cat([x, maps[level - 1]], dim=1)
            x = F.elu(self.after[level](x))
            if level < 4:
                disparities.append(self.heads[level](x).float().sigmoid()[:, 0])
        return disparities[::-1]


@MODELS.register_module()
class PoseNet(BaseModule):
    """The camera's motion between two frames.

    A ResNet over the two images on top of each other, 1×1 → 256, two 3×3, 1×1 → 12, mean over the
    map, × 0.01: small motions at the start. Of the twelve numbers the first six are the motion from
    the first frame to the second; the others are kept so that the layer has the published shape.

    Args:
        encoder: config of a :class:`ResNetPyramid` with ``in_channels=6``.
        channels: of the hidden convolutions.
        init_cfg: as in mmengine.
    """

    def __init__(self, encoder: dict, channels: int = 256, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        if (in_channels := encoder.get("in_channels", 6)) != 6:
            raise InputError(
                f"PoseNet stacks two RGB frames: its encoder needs in_channels=6, not {in_channels}"
            )
        self.encoder = MODELS.build({**encoder, "in_channels": 6})
        self.head = nn.Sequential(
            nn.Conv2d(self.encoder.channels[-1], channels, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, 12, 1),
        )

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (N, 3, H, W) in the order of time → axis-angle (N, 3) and translation (N, 3).

        Both float32; together they take the first camera's coordinates to the second's.
        """
        maps = self.encoder(torch.cat([first, second], dim=1))
        motion = 0.01 * self.head(maps[-1]).float().mean((2, 3))
        return motion[:, :3], motion[:, 3:6]
