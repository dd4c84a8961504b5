"""The truth for metrics, in float64 NumPy. Part of tests/reference.py."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from reference_losses import LOSSES, row_weights, weighted_mean


def _columns(y_pred):
    """Predictions as (rows..., outputs); (n,) is (n, 1)."""
    y_pred = np.asarray(y_pred, np.float64)
    return y_pred[:, None] if y_pred.ndim == 1 else y_pred


def true_classes(y_true, y_pred):
    y_true = np.asarray(y_true)
    if y_pred.shape[-1] > 1 and y_true.shape == y_pred.shape:
        return y_true.argmax(axis=-1)
    return y_true.reshape(y_pred.shape[:-1]).astype(np.int64)


def predicted_classes(y_pred, threshold=0.5):
    """Largest output, lowest index on ties; with a single output, whether it is > threshold."""
    if y_pred.shape[-1] == 1:
        return (y_pred[..., 0] > threshold).astype(np.int64)
    return y_pred.argmax(axis=-1)


def accuracy(y_true, y_pred, sample_weight=None, threshold=0.5):
    y_pred = _columns(y_pred)
    hits = true_classes(y_true, y_pred) == predicted_classes(y_pred, threshold)
    return weighted_mean(hits.astype(float), sample_weight)


def binary_accuracy(y_true, y_pred, sample_weight=None, threshold=0.5):
    """Share of outputs, each its own yes/no question, that are answered right."""
    y_pred = _columns(y_pred)
    hits = (y_pred > threshold) == (np.asarray(y_true).reshape(y_pred.shape) > 0.5)
    return weighted_mean(hits.mean(axis=-1), sample_weight)


def top_k_accuracy(y_true, y_pred, sample_weight=None, k=5):
    """Share of rows whose class is among the k largest outputs; of equal ones the lower wins."""
    y_pred = _columns(y_pred)
    label = true_classes(y_true, y_pred)[..., None]
    score = np.take_along_axis(y_pred, label, axis=-1)
    earlier = np.arange(y_pred.shape[-1]) < label
    rank = ((y_pred > score) | ((y_pred == score) & earlier)).sum(axis=-1)
    return weighted_mean((rank < k).astype(float), sample_weight)


def mean_squared_error(y_true, y_pred, sample_weight=None):
    return LOSSES["mse"].value(_columns(y_pred), y_true, sample_weight)


def mean_absolute_error(y_true, y_pred, sample_weight=None):
    return LOSSES["mae"].value(_columns(y_pred), y_true, sample_weight)


def r2(y_true, y_pred, sample_weight=None):
    """1 - residual / total variation, averaged over outputs, as sklearn.metrics.r2_score:
    an output that does not vary scores 1 if predicted exactly, else 0; one row gives NaN."""
    p = _columns(y_pred)
    t = np.asarray(y_true, np.float64).reshape(p.shape)
    w = row_weights(sample_weight, p.shape[:-1])[..., None]
    rows = tuple(range(p.ndim - 1))
    if math.prod(p.shape[:-1]) < 2:
        return math.nan
    residual = (w * (t - p) ** 2).sum(axis=rows)
    mean = (w * t).sum(axis=rows) / w.sum()
    total = (w * (t - mean) ** 2).sum(axis=rows)
    constant = np.where(residual == 0, 1.0, 0.0)
    return float(np.where(total > 0, 1 - residual / np.where(total > 0, total, 1), constant).mean())


def _counts(y_true, y_pred, w, threshold):
    """True positives, false positives, false negatives: of class 1 where there is one output,
    else of every class."""
    y_pred = _columns(y_pred)
    t, p = true_classes(y_true, y_pred), predicted_classes(y_pred, threshold)
    w = row_weights(w, t.shape)
    classes = [1] if y_pred.shape[-1] == 1 else range(y_pred.shape[-1])
    pairs = [(t == c, p == c) for c in classes]
    tp = np.array([w[a & b].sum() for a, b in pairs])
    fp = np.array([w[~a & b].sum() for a, b in pairs])
    fn = np.array([w[a & ~b].sum() for a, b in pairs])
    return tp, fp, fn


def _mean_ratio(a, b):
    return float(np.where(b > 0, a / np.where(b > 0, b, 1), 0.0).mean())


def precision(y_true, y_pred, sample_weight=None, threshold=0.5):
    tp, fp, _ = _counts(y_true, y_pred, sample_weight, threshold)
    return _mean_ratio(tp, tp + fp)


def recall(y_true, y_pred, sample_weight=None, threshold=0.5):
    tp, _, fn = _counts(y_true, y_pred, sample_weight, threshold)
    return _mean_ratio(tp, tp + fn)


def f1(y_true, y_pred, sample_weight=None, threshold=0.5):
    tp, fp, fn = _counts(y_true, y_pred, sample_weight, threshold)
    return _mean_ratio(2 * tp, 2 * tp + fp + fn)


METRICS: dict[str, Callable[..., float]] = {
    "accuracy": accuracy,
    "binary_accuracy": binary_accuracy,
    "top_k_accuracy": top_k_accuracy,
    "mse": mean_squared_error,
    "mae": mean_absolute_error,
    "r2": r2,
    "precision": precision,
    "recall": recall,
    "f1": f1,
}
