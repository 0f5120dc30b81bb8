"""What surrounds a training run: hooks, safe checkpoints, pictures, launching."""

from mmsalmask.engine.autocast import BFloat16OptimWrapper, Float16OptimWrapper
from mmsalmask.engine.broken_images import BrokenImagesHook
from mmsalmask.engine.classes import ClassCheckHook
from mmsalmask.engine.deferred_log import DeferredRuntimeInfoHook
from mmsalmask.engine.frozen import FrozenCheckHook
from mmsalmask.engine.gallery import draw_gallery
from mmsalmask.engine.guards import CollapseHook, NonFiniteHook
from mmsalmask.engine.knn import KNNHook
from mmsalmask.engine.masks import MaskGalleryHook, TrainingStatisticsHook
from mmsalmask.engine.precise_bn import PreciseBNHook
from mmsalmask.engine.resident_images import ResidentImagesHook
from mmsalmask.engine.runner import ExactRunner
from mmsalmask.engine.safe_checkpoint import SafeCheckpointHook, write_atomically
from mmsalmask.engine.slots import SlotGalleryHook

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
    "draw_gallery",
    "write_atomically",
]
