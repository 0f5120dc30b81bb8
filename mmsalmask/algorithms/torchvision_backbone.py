"""Any ConvNet of torchvision as a backbone."""

import inspect

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torchvision.models import get_model, get_model_builder, list_models
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from mmsalmask.config.wording import ask, nearest
from mmsalmask.errors import InputError
from mmsalmask.registry import MODELS

# Their last feature map is one of tokens, or they take images of one size only.
_NO_CONVNETS = ("vit_", "swin_", "maxvit_")
_HEADS = ("classifier", "fc", "head")
# Pixels of the image by which the last feature map is found: even Inception leaves 2×2 of it.
_PROBE = 128


def convnets() -> list[str]:
    """The names of torchvision's classification ConvNets."""
    import torchvision

    names = list_models(module=torchvision.models)
    return [name for name in names if not name.startswith(_NO_CONVNETS)]


@MODELS.register_module()
class TorchvisionBackbone(BaseModule):
    """The last feature map of a ConvNet of torchvision, without its pooling and classifier.

    The map is found by torchvision's own tracing: it is the last 4-dimensional output with more
    than one pixel before the classifier.

    Args:
        model: the name, one of :func:`convnets`.
        weights: of torchvision, by name, e.g. ``"DEFAULT"``; ``None`` for none.
        init_cfg: as for every module of mmengine.

    Attributes:
        net: holds the tensors under torchvision's names.

    Raises:
        InputError: torchvision has no ConvNet of this name, or the weights cannot be downloaded.
    """

    def __init__(
        self, model: str, weights: str | None = None, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg)
        names = convnets()
        if model not in names:
            near = nearest(str(model), {name: name for name in names}, count=3)
            raise InputError(f"torchvision has no ConvNet named '{model}'{ask(near)}")
        net = _build(model, weights)
        self.net = create_feature_extractor(net, {_last_map(net): "map"})

    def init_weights(self) -> None:
        """Keep what torchvision has drawn or read, unless ``init_cfg`` says otherwise."""
        if self.init_cfg:
            super().init_weights()

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """The map (N, C, h, w) of images (N, 3, H, W), in a tuple as of mmpretrain's backbones."""
        return (self.net(images)["map"],)


def _build(model: str, weights: str | None) -> nn.Module:
    options = {}
    if weights is None and "aux_logits" in inspect.getsource(get_model_builder(model)):
        options = {"aux_logits": False, "init_weights": True}  # Inception and GoogLeNet
    try:
        return get_model(model, weights=weights, **options)
    except (OSError, RuntimeError) as error:
        raise InputError(f"the weights of torchvision's {model} cannot be had ({error})") from error


@torch.no_grad()
def _last_map(net: nn.Module) -> str:
    """The name of the node of a traced net that gives its last feature map."""
    training = net.training
    _, nodes = get_graph_node_names(net)
    body = [name for name in nodes if name.partition(".")[0] not in _HEADS]
    probe = create_feature_extractor(net, {name: name for name in body}).eval()
    outputs = probe(torch.zeros(1, 3, _PROBE, _PROBE))
    net.train(training)
    maps = [
        name
        for name, value in outputs.items()
        if isinstance(value, Tensor) and value.ndim == 4 and min(value.shape[2:]) > 1
    ]
    return maps[-1]
