"""Measures of what a backbone has learned."""

from mmsalmask.evaluation.depth import (
    DepthMetric,
    TranslationMetric,
    constant_depth_errors,
    depth_errors,
)
from mmsalmask.evaluation.knn import extract_features, knn_accuracy, knn_classify

__all__ = [
    "DepthMetric",
    "TranslationMetric",
    "constant_depth_errors",
    "depth_errors",
    "extract_features",
    "knn_accuracy",
    "knn_classify",
]
