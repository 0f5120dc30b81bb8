"""Measures of what a backbone has learned."""

from mmsalmask.evaluation.accuracy import accuracy
from mmsalmask.evaluation.features import extract_features
from mmsalmask.evaluation.knn import KNNMetric, knn_classify, knn_classify_each
from mmsalmask.evaluation.linear import evaluate_linear

__all__ = [
    "KNNMetric",
    "accuracy",
    "evaluate_linear",
    "extract_features",
    "knn_classify",
    "knn_classify_each",
]
