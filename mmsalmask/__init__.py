"""Saliency-guided masking for contrastive self-supervised learning of ConvNets.

Importing the package installs the seams of :mod:`mmsalmask.compat` and nothing else. The rooms
``mmsalmask.saliency``, ``mmsalmask.masking`` and ``mmsalmask.losses`` need only PyTorch.
"""

from mmsalmask import compat

__version__ = "0.1.0"
__all__ = ["__version__"]

compat.install()
