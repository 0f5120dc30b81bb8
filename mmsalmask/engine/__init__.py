"""What surrounds a training run: hooks, safe checkpoints, pictures, launching."""

from mmsalmask.engine.autocast import BFloat16OptimWrapper, Float16OptimWrapper
from mmsalmask.engine.hooks.broken_images import BrokenImagesHook
from mmsalmask.engine.hooks.classes import ClassCheckHook
from mmsalmask.engine.hooks.collapse import CollapseHook
from mmsalmask.engine.hooks.deferred_log import DeferredRuntimeInfoHook
from mmsalmask.engine.hooks.frozen import FrozenCheckHook
from mmsalmask.engine.hooks.knn import KNNHook
from mmsalmask.engine.hooks.masks import MaskGalleryHook, TrainingStatisticsHook
from mmsalmask.engine.hooks.nonfinite import NonFiniteHook
from mmsalmask.engine.hooks.precise_bn import PreciseBNHook
from mmsalmask.engine.hooks.resident_images import ResidentImagesHook
from mmsalmask.engine.hooks.slots import SlotGalleryHook
from mmsalmask.engine.resume.runner import ExactRunner
from mmsalmask.engine.resume.safe_checkpoint import SafeCheckpointHook

__all__ = [
    "BFloat16OptimWrapper",
    "BrokenImagesHook",
    "ClassCheckHook",
    "CollapseHook",
    "DeferredRuntimeInfoHook",
    "ExactRunner",
    "Float16OptimWrapper",
    "FrozenCheckHook",
    "KNNHook",
    "MaskGalleryHook",
    "NonFiniteHook",
    "PreciseBNHook",
    "ResidentImagesHook",
    "SafeCheckpointHook",
    "SlotGalleryHook",
    "TrainingStatisticsHook",
]
