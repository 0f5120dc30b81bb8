"""WHERE: localizers give a saliency map, :func:`foreground` the patches that show the object.

Plain PyTorch. Nothing here knows about masks or losses.
"""

from mmsalmask.saliency.cache import CachedSaliency, cut, open_cache, standardise, write_cache
from mmsalmask.saliency.crops import Crops
from mmsalmask.saliency.foreground import foreground, informative, pool_to_grid
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
    "CachedSaliency",
    "Crops",
    "Frozen",
    "SpectralResidualSaliency",
    "centre_prior",
    "cut",
    "foreground",
    "informative",
    "open_cache",
    "pool_to_grid",
    "standardise",
    "write_cache",
]
