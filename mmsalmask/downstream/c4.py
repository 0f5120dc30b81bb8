"""Faster and Mask R-CNN C4 as MoCo fine-tunes them (He et al., CVPR 2020, section 4.2).

mmdet's detectors, with what its C4 models lack for it. Only configs name this module, in
``custom_imports``, so that pretraining does not wait for mmdet.
"""

from mmcv.cnn import build_norm_layer
from mmdet.models import ResNet, TwoStageDetector
from mmdet.models.roi_heads.shared_heads import ResLayer
from torch import Tensor

from mmsalmask.registry import MODELS


@MODELS.register_module()
class C4Detector(TwoStageDetector):
    """A two-stage detector whose shared head starts from the checkpoint of its backbone.

    A C4 detector computes stem to res4 in the backbone and res5 in the RoI head, where mmdet's
    Mask R-CNN C4 leaves it at random. Here ``backbone.init_cfg`` is the shared head's, too, unless
    that has one of its own. Faster R-CNN and Mask R-CNN differ by their RoI head alone.

    Args:
        backbone: config of the backbone.
        roi_head: config of the RoI head, with a ``shared_head``.
        **kwargs: as mmdet's ``TwoStageDetector`` takes them.
    """

    def __init__(self, backbone: dict, roi_head: dict, **kwargs) -> None:
        shared_head = {"init_cfg": backbone.get("init_cfg"), **roi_head["shared_head"]}
        super().__init__(
            backbone=backbone, roi_head={**roi_head, "shared_head": shared_head}, **kwargs
        )


@MODELS.register_module()
class Res5WithNorm(ResLayer):
    """res5 of a ResNet, trained with its norms, and one more norm on what it returns.

    Args:
        depth: of the ResNet: 18, 34, 50, 101 or 152.
        norm_cfg: of the norms.
        **kwargs: as mmdet's ``ResLayer`` takes them.
    """

    def __init__(self, depth: int, norm_cfg: dict, **kwargs) -> None:
        super().__init__(depth, norm_cfg=norm_cfg, norm_eval=False, **kwargs)
        channels = 512 * ResNet.arch_settings[depth][0].expansion
        self.norm = build_norm_layer(norm_cfg, channels)[1]

    def train(self, mode: bool = True) -> "Res5WithNorm":
        """Set the mode; mmdet's own returns nothing, where every module returns itself."""
        super().train(mode)
        return self

    def forward(self, features: Tensor) -> Tensor:
        """Features of RoIs (R, C, 14, 14) of res4 → (R, 2C, 7, 7), for BasicBlocks as well."""
        return self.norm(super().forward(features))
