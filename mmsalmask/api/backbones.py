"""Backbones by name: mmpretrain's ResNets, and any ConvNet of torchvision or timm."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.logging import MMLogger
from torch import nn

from mmsalmask.algorithms.torchvision_backbone import convnets
from mmsalmask.config.wording import ask, nearest
from mmsalmask.errors import InputError
from mmsalmask.registry import MODELS

Backbone = str | Mapping[str, Any]

# mmpretrain's own; a recipe keeps what else it says of its ResNet.
RESNETS = {f"resnet{depth}": depth for depth in (18, 34, 50, 101, 152)}
# Pixels of the image by which a net's width is found.
_PROBE = 128


def backbone_config(name: Backbone, pretrained: bool = False) -> dict[str, Any]:
    """The config of a backbone.

    Args:
        name: ``resnet18`` … ``resnet152`` (mmpretrain's), a ConvNet of torchvision, a net of timm,
            where ``timm/`` before a name leaves no choice; or a config with a ``type``.
        pretrained: with the weights that its library offers; for the ResNets, torchvision's.

    Raises:
        InputError: nobody has such a net; names the nearest.
    """
    if isinstance(name, Mapping):
        if "type" not in name:
            raise InputError(f"backbone must be a name or a dict with a 'type', got {dict(name)!r}")
        return dict(name)
    library, mark, inner = str(name).partition("/")
    if mark and library == "timm":
        return _timm_config(inner, pretrained)
    if name in RESNETS:
        start = dict(type="Pretrained", checkpoint=f"torchvision://{name}")
        return dict(type="ResNet", depth=RESNETS[name]) | (
            dict(init_cfg=start) if pretrained else {}
        )
    known = convnets()
    if name in known:
        config = dict(type="mmsalmask.TorchvisionBackbone", model=name)
        return config | (dict(weights="DEFAULT") if pretrained else {})
    timm_names = _timm_names()
    if name in timm_names:
        return _timm_config(str(name), pretrained)
    choices = {known_name: known_name for known_name in [*RESNETS, *known, *timm_names]}
    more = "" if timm_names else " (timm, which has more, is not installed)"
    raise InputError(f"no backbone named '{name}'{ask(nearest(str(name), choices, count=3))}{more}")


def _timm_names() -> list[str]:
    try:
        import timm
    except ImportError:
        return []
    return timm.list_models()


def _timm_config(name: str, pretrained: bool) -> dict[str, Any]:
    names = _timm_names()
    if not names:
        raise InputError(f"backbone 'timm/{name}' needs timm: pip install 'mmsalmask[timm]'")
    if name not in names:
        near = nearest(name, {known: known for known in names}, count=3)
        raise InputError(f"timm has no model named '{name}'{ask(near)}")
    return dict(type="TIMMBackbone", _scope_="mmpretrain", model_name=name, pretrained=pretrained)


def build_backbone(config: Mapping[str, Any], seed: int = 0) -> nn.Module:
    """A backbone with its first weights, drawn by a seed without touching the global stream.

    Raises:
        InputError: its weights cannot be downloaded.
    """
    # The initialisation of every layer is logged at level INFO, which is no news here.
    if not MMLogger.check_instance_created("mmsalmask"):
        MMLogger.get_instance("mmsalmask", log_level="WARNING")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            backbone = MODELS.build({"_scope_": "mmpretrain", **config})
            backbone.init_weights()
        except OSError as error:
            raise InputError(f"the weights of a backbone cannot be had ({error})") from error
    return backbone


@torch.no_grad()
def channels_of(backbone: nn.Module) -> int:
    """The channels of a backbone's last feature map.

    Raises:
        InputError: it gives no feature map, as a vision transformer: masks, saliency and pooling
            here are those of ConvNets.
    """
    training = backbone.training
    backbone.eval()
    try:
        maps = backbone(torch.zeros(1, 3, _PROBE, _PROBE))
    except (AssertionError, RuntimeError, ValueError) as error:  # of another size, a transformer
        raise InputError(
            f"the backbone takes no images of {_PROBE} px ({error}): only ConvNets are supported"
        ) from error
    backbone.train(training)
    last = maps[-1] if isinstance(maps, tuple | list) else maps
    if last.ndim != 4 or last.shape[1] < max(last.shape[2:]):
        raise InputError(
            f"the backbone gives features of shape {tuple(last.shape)} instead of a map "
            "(N, C, h, w): only ConvNets are supported"
        )
    return last.shape[1]
