"""WHERE: localizers give a saliency map, :func:`foreground` the patches that show the object.

Plain PyTorch. Nothing here knows about masks or losses. The localizers themselves are the files in
:mod:`mmsalmask.saliency.localizers`, and can be imported from here.
"""

from typing import Any

from mmsalmask.saliency import localizers
from mmsalmask.saliency.crops import Crops
from mmsalmask.saliency.foreground import foreground, informative, pool_to_grid
from mmsalmask.saliency.frozen import Frozen
from mmsalmask.saliency.localizer import Localizer
from mmsalmask.saliency.localizers.centre_prior import centre_prior
from mmsalmask.saliency.maps import cut, standardise

__all__ = [
    "Crops",
    "Frozen",
    "Localizer",
    "centre_prior",
    "cut",
    "foreground",
    "informative",
    "localizers",
    "pool_to_grid",
    "standardise",
    *Localizer.registered(),
]


def __getattr__(name: str) -> Any:
    try:
        return Localizer.registered()[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
