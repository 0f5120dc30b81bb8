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
    from mmsalmask.api.diagnosis import Diagnosis as Diagnosis
    from mmsalmask.api.diagnosis import diagnose as diagnose
    from mmsalmask.api.embeddings import Embeddings as Embeddings
    from mmsalmask.api.embeddings import embed as embed
    from mmsalmask.api.encoder import Encoder as Encoder
    from mmsalmask.api.evaluating import Evaluation as Evaluation
    from mmsalmask.api.evaluating import evaluate as evaluate
    from mmsalmask.api.exporting import export as export
    from mmsalmask.api.inferencer import FeatureExtractor as FeatureExtractor
    from mmsalmask.api.masks import show_masks as show_masks
    from mmsalmask.api.models import get_model as get_model
    from mmsalmask.api.models import list_models as list_models
    from mmsalmask.api.pretraining import pretrain as pretrain
    from mmsalmask.api.recipes import list_methods as list_methods
    from mmsalmask.api.reporting import report as report
    from mmsalmask.api.run import Run as Run
    from mmsalmask.api.transferring import transfer as transfer

__version__ = "0.1.0"

# The module of mmsalmask.api that defines each public name.
_PUBLIC = {
    "Diagnosis": "diagnosis",
    "Embeddings": "embeddings",
    "Encoder": "encoder",
    "Evaluation": "evaluating",
    "FeatureExtractor": "inferencer",
    "Run": "run",
    "diagnose": "diagnosis",
    "embed": "embeddings",
    "evaluate": "evaluating",
    "export": "exporting",
    "get_model": "models",
    "list_methods": "recipes",
    "list_models": "models",
    "pretrain": "pretraining",
    "report": "reporting",
    "show_masks": "masks",
    "transfer": "transferring",
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
