"""WHERE: localizers give a saliency map, :func:`foreground` the patches that show the object.

Plain PyTorch. Nothing here knows about masks or losses.
"""

from mmsalmask.saliency.foreground import foreground, pool_to_grid
from mmsalmask.saliency.frozen import Frozen
from mmsalmask.saliency.localizers import (
    BackboneSaliency,
    BoundaryPriorSaliency,
    SpectralResidualSaliency,
    centre_prior,
)

__all__ = [
    "BackboneSaliency",
    "BoundaryPriorSaliency",
    "Frozen",
    "SpectralResidualSaliency",
    "centre_prior",
    "foreground",
    "pool_to_grid",
]
