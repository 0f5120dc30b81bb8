"""Monodepth2: depth and motion learned from video alone (Godard et al., ICCV 2019)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor

from mmsalmask.depth.geometry import (
    disparity_to_depth,
    invert_motion,
    rigid_motion,
    warp,
)
from mmsalmask.depth.photometric import (
    edge_aware_smoothness,
    minimum_reprojection,
    photometric_error,
)
from mmsalmask.errors import InputError
from mmsalmask.registry import MODELS

_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_STD = (58.395, 57.12, 57.375)


@MODELS.register_module()
class DepthDataPreprocessor(BaseDataPreprocessor):
    """Move what ``mmsalmask.PackFrames`` packed to the device and bring colours to their ranges.

    ``img`` (what the encoder sees) and ``frames`` (what the pose network sees) are normalised by
    the statistics that the encoder was pretrained with, where Monodepth2 uses 0.45 and 0.225 for
    all channels: a frozen encoder must see what it knows. ``plain``, from which views are
    synthesised, becomes [0, 1]. BGR becomes RGB.

    Args:
        mean, std: per channel R, G, B, in grey levels of 255.
        non_blocking: do not wait for the copy to the device.
    """

    def __init__(
        self,
        mean: Sequence[float] = _IMAGENET_MEAN,
        std: Sequence[float] = _IMAGENET_STD,
        non_blocking: bool = True,
    ) -> None:
        super().__init__(non_blocking=non_blocking)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), False)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Turn 8-bit (or high-pass filtered float) BGR images into what the model computes with.

        Args:
            data: ``inputs`` with ``img`` (N, 3, H, W) and, where the pipeline loads neighbours,
                ``frames`` and ``plain`` (N, F, 3, H, W) and ``intrinsics`` (N, 3, 3); and
                ``data_samples``.
            training: not used.
        """
        data = self.cast_data(data)
        inputs = dict(data["inputs"])
        for name in ("img", "frames"):
            if name in inputs:
                inputs[name] = (inputs[name].float().flip(-3) - self.mean) / self.std
        if "plain" in inputs:
            inputs["plain"] = inputs["plain"].float().flip(-3) / 255
        return {"inputs": inputs, "data_samples": data.get("data_samples")}


@MODELS.register_module()
class Monodepth2(BaseModel):
    """Depth encoder and decoder, and a pose network that is needed in training only.

    A frozen encoder is in eval mode whatever the model's mode is, gets no gradient and keeps its
    BatchNorm statistics: depth decoder and pose network alone are trained, as in the paper's
    Table 3.

    Args:
        encoder: config of a ``mmsalmask.ResNetPyramid``.
        decoder: config of a ``mmsalmask.DepthDecoder``; ``in_channels`` are the encoder's.
        pose: config of a ``mmsalmask.PoseNet``.
        freeze_encoder: train the decoder and the pose network alone.
        depth_range: nearest and farthest depth that a disparity can stand for.
        smoothness: weight of the smoothness term at full resolution; halved at every scale.
        data_preprocessor: config, usually of a ``mmsalmask.DepthDataPreprocessor``.
        init_cfg: as in mmengine.

    Raises:
        InputError: for an empty or negative depth range, a negative weight, and images whose sides
            are no multiples of 32 from 64 up.
    """

    def __init__(
        self,
        encoder: dict,
        decoder: dict,
        pose: dict,
        freeze_encoder: bool = True,
        depth_range: tuple[float, float] = (0.1, 100.0),
        smoothness: float = 1e-3,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            data_preprocessor or dict(type="mmsalmask.DepthDataPreprocessor"), init_cfg
        )
        nearest, farthest = depth_range
        if not 0 < nearest < farthest:
            raise InputError(
                f"depth_range is (nearest, farthest), both positive, got {depth_range}"
            )
        if smoothness < 0:
            raise InputError(f"smoothness is a weight and not negative, got {smoothness}")
        self.encoder = MODELS.build(encoder)
        self.decoder = MODELS.build({"in_channels": self.encoder.channels, **decoder})
        self.pose = MODELS.build(pose)
        self.freeze_encoder = freeze_encoder
        self.depth_range = (nearest, farthest)
        self.smoothness = smoothness
        if freeze_encoder:
            self.encoder.requires_grad_(False)

    def init_weights(self) -> None:
        """Initialise all networks; warn of an encoder that is neither trained nor pretrained."""
        super().init_weights()
        if self.freeze_encoder and not self.encoder.is_pretrained:
            MMLogger.get_current_instance().warning(
                "The frozen encoder keeps its random weights: give model.encoder.init_cfg = "
                "dict(type='Pretrained', checkpoint=...), or set model.freeze_encoder=False"
            )

    def train(self, mode: bool = True) -> "Monodepth2":
        """Set the mode of all networks but a frozen encoder, which stays in eval mode."""
        super().train(mode)
        if self.freeze_encoder:
            self.encoder.eval()
        return self

    def forward(
        self, inputs: dict[str, Tensor], data_samples: list | None = None, mode: str = "tensor"
    ) -> dict[str, Tensor] | list | Tensor:
        """Run the model as mmengine asks for it.

        Args:
            inputs: what :class:`DepthDataPreprocessor` made.
            data_samples: one per image in mode ``predict``; gets the predictions.
            mode: ``loss`` → :meth:`loss`, ``predict`` → :meth:`predict`, ``tensor`` → disparities
                (N, H, W) in [0, 1].
        """
        if mode == "loss":
            return self.loss(inputs)
        if mode == "predict":
            return self.predict(inputs, data_samples)
        return self.disparities(inputs["img"])[0]

    def disparities(self, images: Tensor) -> list[Tensor]:
        """Normalised (N, 3, H, W) → disparities (N, H/2^s, W/2^s) in [0, 1], s = 0 … 3."""
        if any(side < 64 or side % 32 for side in images.shape[-2:]):
            raise InputError(
                f"Monodepth2 needs images whose sides are multiples of 32 from 64 up, got "
                f"{images.shape[-1]}x{images.shape[-2]}: change the scale of ResizeFrames"
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_encoder):
            maps = self.encoder(images)
        return self.decoder(maps)

    def motions(self, frames: Tensor) -> Tensor:
        """Motions from the target camera to that of the previous and of the next frame.

        The pose network sees every pair in the order of time; what it says of the previous frame
        and the target is therefore inverted.

        Args:
            frames: normalised (N, 3, 3, H, W): target, previous, next.

        Returns:
            float32 (N, 2, 4, 4).
        """
        target, previous, following = frames.unbind(1)
        motions = rigid_motion(
            *self.pose(torch.cat([previous, target]), torch.cat([target, following]))
        )
        to_target, to_following = motions.chunk(2)
        return torch.stack([invert_motion(to_target), to_following], dim=1)

    def loss(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Reprojection and smoothness, each the mean over the four scales.

        At every scale the disparity is brought to full resolution, the two neighbours are warped to
        the target view with it and the predicted motions, and the photometric error is compared
        there. The terms are computed in float32 on the unjittered images.

        Args:
            inputs: ``img``, ``frames``, ``plain`` and ``intrinsics``.

        Returns:
            ``loss_reprojection`` and ``loss_smoothness``.
        """
        disparities = self.disparities(inputs["img"])
        motions = self.motions(inputs["frames"])
        with torch.autocast(motions.device.type, enabled=False):
            target, sources = inputs["plain"][:, 0], inputs["plain"][:, 1:]
            unwarped = _errors(sources, target)
            reprojection, smoothness = [], []
            for scale, disparity in enumerate(disparities):
                full = _resize(disparity, target.shape[-2:])
                depth = disparity_to_depth(full, *self.depth_range)
                views = _warp_all(sources, depth, inputs["intrinsics"], motions)
                reprojection.append(minimum_reprojection(_errors(views, target), unwarped))
                # At the disparity's own resolution, by area: 2^s pixels become one.
                image = F.adaptive_avg_pool2d(target, disparity.shape[-2:])
                smoothness.append(edge_aware_smoothness(disparity, image) / 2**scale)
            return {
                "loss_reprojection": torch.stack(reprojection).mean(),
                "loss_smoothness": self.smoothness * torch.stack(smoothness).mean(),
            }

    def predict(self, inputs: dict[str, Tensor], data_samples: list) -> list:
        """Fill the samples.

        ``pred_inverse_depth`` (H, W) float32 is 1/depth in the network's own unit of length. Where
        the pipeline loads neighbours, ``pred_motions`` (2, 4, 4) lead from the target camera to
        those of the previous and the next frame.
        """
        disparity = self.disparities(inputs["img"])[0]
        inverse = 1 / disparity_to_depth(disparity, *self.depth_range)
        for sample, own in zip(data_samples, inverse, strict=True):
            sample.set_field(own, "pred_inverse_depth")
        if "frames" in inputs:
            for sample, own in zip(data_samples, self.motions(inputs["frames"]), strict=True):
                sample.set_field(own, "pred_motions")
        return data_samples


def _resize(disparity: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(disparity[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def _errors(views: Tensor, target: Tensor) -> Tensor:
    """Photometric errors (N, S, H, W) of S views (N, S, 3, H, W) of each target (N, 3, H, W)."""
    expanded = target[:, None].expand_as(views)
    errors = photometric_error(views.flatten(0, 1), expanded.flatten(0, 1))
    return errors.view(*views.shape[:2], *target.shape[-2:])


def _warp_all(sources: Tensor, depth: Tensor, intrinsics: Tensor, motions: Tensor) -> Tensor:
    """Sources (N, S, 3, H, W) warped to their target by depth (N, H, W) and motion (N, S, 4, 4)."""
    number = sources.shape[1]
    views = warp(
        sources.flatten(0, 1),
        depth.repeat_interleave(number, 0),
        intrinsics.repeat_interleave(number, 0),
        motions.flatten(0, 1),
    )
    return views.view_as(sources)
