"""The localizers under names that a config can write."""

from typing import Any

from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS

from mmsalmask.checkpoint import backbone_state, check_matches, load_checkpoint
from mmsalmask.registry import MODELS
from mmsalmask.saliency import BackboneSaliency, BoundaryPriorSaliency, SpectralResidualSaliency


def backbone_saliency(backbone: dict[str, Any], checkpoint: str) -> BackboneSaliency:
    """Saliency of an mmpretrain backbone with the weights of a checkpoint; the paper's localizer.

    ``dict(type='mmsalmask.BackboneSaliency', backbone=dict(type='ResNet', depth=50),
    checkpoint='torchvision://resnet50')`` in a config.

    Args:
        backbone: config of an mmpretrain backbone that returns feature maps.
        checkpoint: a file, an address or ``torchvision://<model>``, read by
            :func:`mmsalmask.checkpoint.load_checkpoint`.

    Raises:
        InputError: when there is no such checkpoint, or it does not fit the backbone exactly.
    """
    net = MMPRETRAIN_MODELS.build(dict(backbone, _scope_="mmpretrain"))
    state = backbone_state(load_checkpoint(checkpoint))
    check_matches(net, state, checkpoint)
    net.load_state_dict(state)
    return BackboneSaliency(net)


MODELS.register_module(name="BackboneSaliency", module=backbone_saliency)
MODELS.register_module(module=BoundaryPriorSaliency)
MODELS.register_module(module=SpectralResidualSaliency)
