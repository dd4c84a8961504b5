"""The truth for losses, in float64 NumPy. Part of tests/reference.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from reference_activations import away_from, log_softmax, sigmoid, softmax


def one_hot(labels, classes):
    return np.eye(classes)[np.asarray(labels, dtype=np.int64)]


def class_targets(t, p):
    """Targets with the shape of p: one-hot ones as they are, integers (one per row) expanded."""
    t = np.asarray(t)
    return t if t.shape == p.shape else one_hot(t.reshape(p.shape[:-1]), p.shape[-1])


def row_weights(w, rows_shape):
    """One weight per row; None means 1; a weight per sample counts for each of its rows."""
    if w is None:
        return np.ones(rows_shape)
    w = np.asarray(w, dtype=np.float64)
    w = w.reshape(w.shape + (1,) * (len(rows_shape) - w.ndim))
    return np.broadcast_to(w, rows_shape)


def weighted_mean(values, w=None):
    """sum(w*v) / sum(w) over all rows; a row of weight 0 is not there. No rows at all give 0."""
    w = row_weights(w, values.shape)
    values, w = values[w != 0], w[w != 0]
    return float((w * values).sum() / w.sum()) if w.size else 0.0


@dataclass(frozen=True)
class Loss:
    """A loss on what the engine's loss op takes: logits for the two cross entropies (they contain
    the softmax or sigmoid), predictions for the others. p (..., C); t as p, or integers (...).
    """

    rows: Callable  # (p, t, **options) -> loss of each row, shape p.shape[:-1]
    slope: Callable  # (p, t, **options) -> d(row loss)/dp, shape p.shape
    sample: Callable  # (rng, shape, **options) -> (p, t), away from kinks
    options: tuple[dict[str, float], ...] = ({},)  # option sets that tests go through
    classes: bool = False  # targets are classes: one-hot or integer

    def _targets(self, p, t):
        return class_targets(t, p) if self.classes else np.asarray(t, np.float64).reshape(p.shape)

    def per_row(self, p, t, **options):
        return self.rows(p, self._targets(p, t), **options)

    def value(self, p, t, w=None, **options):
        return weighted_mean(self.per_row(p, t, **options), w)

    def gradient(self, p, t, w=None, **options):
        """d value / d p: each row's slope times w_i / sum(w)."""
        w = row_weights(w, p.shape[:-1])[..., None]
        slope = self.slope(p, self._targets(p, t), **options)
        total = w[..., 0].sum()
        return np.where(w != 0, slope * w, 0.0) / (total if total else 1.0)


def cross_entropy_rows(z, t, label_smoothing=0.0):
    t = t * (1 - label_smoothing) + label_smoothing / z.shape[-1]
    return -(t * log_softmax(z)).sum(axis=-1)


def cross_entropy_slope(z, t, label_smoothing=0.0):
    t = t * (1 - label_smoothing) + label_smoothing / z.shape[-1]
    return softmax(z) * t.sum(axis=-1, keepdims=True) - t


def binary_cross_entropy_rows(z, t, label_smoothing=0.0):
    t = t * (1 - label_smoothing) + label_smoothing / 2
    return (np.maximum(z, 0) - z * t + np.log1p(np.exp(-np.abs(z)))).mean(axis=-1)


def binary_cross_entropy_slope(z, t, label_smoothing=0.0):
    t = t * (1 - label_smoothing) + label_smoothing / 2
    return (sigmoid(z) - t) / z.shape[-1]


def huber_rows(p, t, delta=1.0):
    d = np.abs(p - t)
    return np.where(d <= delta, 0.5 * d * d, delta * (d - 0.5 * delta)).mean(axis=-1)


def huber_slope(p, t, delta=1.0):
    return np.clip(p - t, -delta, delta) / p.shape[-1]


def log_cosh_rows(p, t):
    d = np.abs(p - t)
    return (d + np.log1p(np.exp(-2 * d)) - math.log(2)).mean(axis=-1)


def hinge_slope(p, t):
    return np.where(t * p < 1, -t, 0.0) / p.shape[-1]


TINY = 1e-7  # keeps the logarithms of poisson and kl_divergence finite


def kl_divergence_rows(p, t):
    t, p = np.clip(t, TINY, 1), np.clip(p, TINY, 1)
    return (t * np.log(t / p)).sum(axis=-1)


def kl_divergence_slope(p, t):
    inside = (p >= TINY) & (p <= 1)
    return np.where(inside, -np.clip(t, TINY, 1) / np.clip(p, TINY, 1), 0.0)


def sample_regression(rng, shape, delta=1.0):
    t = rng.standard_normal(shape)
    return t + away_from(2 * rng.standard_normal(shape), (0, -delta, delta)), t


def sample_hinge(rng, shape):
    t = rng.choice([-1.0, 1.0], size=shape)
    return t * away_from(2 * rng.standard_normal(shape), (1,)), t


def sample_counts(rng, shape):
    return rng.uniform(0.2, 3.0, shape), rng.poisson(1.5, shape).astype(float)


def sample_distributions(rng, shape):
    return rng.uniform(0.05, 0.95, shape), softmax(rng.standard_normal(shape))


def sample_classes(rng, shape, label_smoothing=0.0):
    return 2 * rng.standard_normal(shape), rng.integers(shape[-1], size=shape[:-1])


def sample_bits(rng, shape, label_smoothing=0.0):
    return 2 * rng.standard_normal(shape), rng.integers(2, size=shape).astype(float)


_SMOOTHING = ({}, {"label_smoothing": 0.1})

LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss(
        cross_entropy_rows, cross_entropy_slope, sample_classes, _SMOOTHING, classes=True
    ),
    "binary_cross_entropy": Loss(
        binary_cross_entropy_rows, binary_cross_entropy_slope, sample_bits, _SMOOTHING
    ),
    "mse": Loss(
        lambda p, t: ((p - t) ** 2).mean(axis=-1),
        lambda p, t: 2 * (p - t) / p.shape[-1],
        sample_regression,
    ),
    "mae": Loss(
        lambda p, t: np.abs(p - t).mean(axis=-1),
        lambda p, t: np.sign(p - t) / p.shape[-1],
        sample_regression,
    ),
    "huber": Loss(huber_rows, huber_slope, sample_regression, ({}, {"delta": 0.5})),
    "log_cosh": Loss(log_cosh_rows, lambda p, t: np.tanh(p - t) / p.shape[-1], sample_regression),
    "hinge": Loss(lambda p, t: np.maximum(1 - t * p, 0).mean(axis=-1), hinge_slope, sample_hinge),
    "poisson": Loss(
        lambda p, t: (p - t * np.log(p + TINY)).mean(axis=-1),
        lambda p, t: (1 - t / (p + TINY)) / p.shape[-1],
        sample_counts,
    ),
    "kl_divergence": Loss(kl_divergence_rows, kl_divergence_slope, sample_distributions),
}
