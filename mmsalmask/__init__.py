"""Saliency-guided masking for contrastive self-supervised learning of ConvNets.

    import mmsalmask as sm
    run = sm.pretrain("photos", "runs/first")
    sm.diagnose(run, "photos")

Importing the package installs the seams of :mod:`mmsalmask.compat` and nothing else; the public
names below are imported when they are first used. The rooms ``mmsalmask.saliency``,
``mmsalmask.masking`` and ``mmsalmask.losses`` need only PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from mmsalmask import compat

if TYPE_CHECKING:
    from mmsalmask.api.models import get_model as get_model
    from mmsalmask.api.models import list_models as list_models
    from mmsalmask.api.pretraining import pretrain as pretrain
    from mmsalmask.api.recipes import list_methods as list_methods
    from mmsalmask.api.run import Run as Run

__version__ = "0.1.0"

# Where each public name is defined.
_PUBLIC = {
    "Run": "run",
    "get_model": "models",
    "list_methods": "recipes",
    "list_models": "models",
    "pretrain": "pretraining",
}
__all__ = ["__version__", *_PUBLIC]

compat.install()


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'mmsalmask' has no attribute '{name}'")
    value = getattr(import_module(f"mmsalmask.api.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
