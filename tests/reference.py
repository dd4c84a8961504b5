"""The truth in float64 NumPy: every operation, loss, optimizer and metric, written to be read.

Nothing here is fast and nothing is clever. The compiled engine is compared with these functions;
these functions are compared with central differences and with other libraries (test_reference.py).

    ACTIVATIONS   name -> Activation(forward(x) -> y, backward(x, y, dy) -> dx)
    LOSSES        name -> Loss with value, per_row, gradient and sample
    OPS           name -> Op(forward, backward, cases, sample, wrt)
    OPTIMIZERS    name -> Optimizer with init and step
    METRICS       name -> function(y_true, y_pred, sample_weight=None, **options) -> float
    train         a training loop for a chain of dense layers

A *row* is everything but the last axis: predictions (n, units) have n rows, (n, time, units) have
n*time. A derivative at a kink is one of its two sides, or between them: ``relu'(0) = 0``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import reference_augment as augment

_erfc = np.vectorize(math.erfc, otypes=[float])

# ----------------------------------------------------------------------------- activations


class Activation(NamedTuple):
    """An element-wise function (softmax: one over the last axis) and its derivative."""

    forward: Callable  # (x, **options) -> y
    backward: Callable  # (x, y, dy, **options) -> dx
    kinks: tuple[float, ...] = ()  # where the derivative jumps; tests keep away from these


def sigmoid(x):
    e = np.exp(-np.abs(x))  # never overflows
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def softmax_backward(x, y, dy):
    return y * (dy - (dy * y).sum(axis=-1, keepdims=True))


def leaky_relu(x, slope=0.2):
    return np.where(x > 0, x, slope * x)


def leaky_relu_backward(x, y, dy, slope=0.2):
    return np.where(x > 0, dy, slope * dy)


def elu(x, alpha=1.0):
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def elu_backward(x, y, dy, alpha=1.0):
    return np.where(x > 0, dy, dy * (y + alpha))


SELU_SCALE, SELU_ALPHA = 1.0507009873554804934, 1.6732632423543772848


def selu(x):
    return SELU_SCALE * elu(x, SELU_ALPHA)


def selu_backward(x, y, dy):
    return SELU_SCALE * elu_backward(x, elu(x, SELU_ALPHA), dy, SELU_ALPHA)


def normal_cdf(x):
    return 0.5 * _erfc(-x / math.sqrt(2))


def gelu_backward(x, y, dy):
    return dy * (normal_cdf(x) + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi))


def silu_backward(x, y, dy):
    s = sigmoid(x)
    return dy * s * (1 + x * (1 - s))


def mish_backward(x, y, dy):
    t = np.tanh(softplus(x))
    return dy * (t + x * sigmoid(x) * (1 - t * t))


def hard_sigmoid(x):
    return np.clip(x + 3, 0, 6) / 6


def hard_sigmoid_backward(x, y, dy):
    return np.where((x > -3) & (x < 3), dy / 6, 0.0)


def hard_swish_backward(x, y, dy):
    return np.where(x <= -3, 0.0, np.where(x < 3, dy * (2 * x + 3) / 6, dy))


ACTIVATIONS: dict[str, Activation] = {
    "linear": Activation(lambda x: x, lambda x, y, dy: dy),
    "relu": Activation(lambda x: np.maximum(x, 0), lambda x, y, dy: np.where(x > 0, dy, 0.0), (0,)),
    "leaky_relu": Activation(leaky_relu, leaky_relu_backward, (0,)),
    "elu": Activation(elu, elu_backward, (0,)),
    "selu": Activation(selu, selu_backward, (0,)),
    "gelu": Activation(lambda x: x * normal_cdf(x), gelu_backward),
    "silu": Activation(lambda x: x * sigmoid(x), silu_backward),
    "mish": Activation(lambda x: x * np.tanh(softplus(x)), mish_backward),
    "softplus": Activation(softplus, lambda x, y, dy: dy * sigmoid(x)),
    "softsign": Activation(
        lambda x: x / (1 + np.abs(x)), lambda x, y, dy: dy / (1 + np.abs(x)) ** 2
    ),
    "hard_sigmoid": Activation(hard_sigmoid, hard_sigmoid_backward, (-3, 3)),
    "hard_swish": Activation(lambda x: x * hard_sigmoid(x), hard_swish_backward, (-3, 3)),
    "tanh": Activation(np.tanh, lambda x, y, dy: dy * (1 - y * y)),
    "sigmoid": Activation(sigmoid, lambda x, y, dy: dy * y * (1 - y)),
    "softmax": Activation(softmax, softmax_backward),
}


def away_from(x, kinks, gap=0.05):
    """Move the entries of x that are within `gap` of a kink to twice that distance from it."""
    for kink in kinks:
        x = np.where(np.abs(x - kink) < gap, kink + np.copysign(2 * gap, x - kink), x)
    return x


# ----------------------------------------------------------------------------- losses


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

# ----------------------------------------------------------------------------- operations


@dataclass(frozen=True)
class Case:
    """One sample of an operation: the shapes of its arrays, and its attributes."""

    shapes: dict[str, tuple[int, ...]]
    attributes: dict[str, Any] = field(default_factory=dict)

    def __str__(self):
        shapes = " ".join("x".join(map(str, shape)) for shape in self.shapes.values())
        return " ".join([shapes, *(f"{k}={v}" for k, v in self.attributes.items())])


@dataclass(frozen=True)
class Op:
    """An operation. Tests call it with keywords::

    arrays = op.sample(case, rng)
    y = op.forward(**arrays, **case.attributes)
    gradients = op.backward(**arrays, dy=dy, **case.attributes)    # one for each name in op.wrt
    """

    forward: Callable
    backward: Callable  # -> tuple, ordered as wrt
    cases: tuple[Case, ...]
    sample: Callable  # (case, rng) -> {name: float64 array}
    wrt: tuple[str, ...] = ("x",)  # arrays that have a gradient


def sample_normal(case, rng):
    return {name: rng.standard_normal(shape) for name, shape in case.shapes.items()}


def sample_activation(case, rng):
    kinks = ACTIVATIONS[case.attributes["kind"]].kinks
    return {"x": away_from(2 * rng.standard_normal(case.shapes["x"]), kinks)}


def sample_dropout(case, rng):
    shape = case.shapes["x"]
    keep = 1 - case.attributes["rate"]
    mask = (rng.random(shape) < keep).astype(float)
    return {"x": rng.standard_normal(shape), "mask": mask}


def sample_normalization(case, rng):
    arrays = sample_normal(case, rng)
    arrays["var"] = rng.uniform(0.3, 3.0, case.shapes["var"])
    arrays["var"][0] = 0.0  # a constant feature: divided by 1e-7, not by zero
    arrays["x"][..., 0] = arrays["mean"][0]
    return arrays


def sample_loss(case, rng):
    options = {k: v for k, v in case.attributes.items() if k != "kind"}
    p, t = LOSSES[case.attributes["kind"]].sample(rng, case.shapes["p"], **options)
    w = rng.uniform(0.5, 2.0, case.shapes["w"])
    w[1::3] = 0.0  # such rows count as removed
    return {"p": p, "t": t, "w": w}


def dense_forward(x, w, b=None):
    """y (n, units) = x (n, d_in) @ w (d_in, units) + b (units,)."""
    return x @ w + (0.0 if b is None else b)


def dense_backward(x, w, b=None, dy=None):
    return dy @ w.T, x.T @ dy, None if b is None else dy.sum(axis=0)


def activation_forward(x, kind, **options):
    return ACTIVATIONS[kind].forward(x, **options)


def activation_backward(x, dy, kind, **options):
    act = ACTIVATIONS[kind]
    return (act.backward(x, act.forward(x, **options), dy, **options),)


def normalization_forward(x, mean, var):
    return (x - mean) / np.maximum(np.sqrt(var), 1e-7)


def normalization_backward(x, mean, var, dy):
    return (dy / np.maximum(np.sqrt(var), 1e-7),)


def loss_forward(p, t, w, kind, **options):
    return LOSSES[kind].value(p, t, w, **options)


def loss_backward(p, t, w, dy, kind, **options):
    return (dy * LOSSES[kind].gradient(p, t, w, **options),)


# Rows, inputs, units: pairwise different and odd, one row, no rows, and one less, exactly and one
# more than the engine's tiles (6 rows x 16 columns, 8 x 32, and multiples of them).
_DENSE_SIZES = (
    (7, 3, 5), (1, 3, 5), (0, 3, 5), (1, 97, 1), (3, 1, 2), (5, 31, 15), (6, 17, 16), (7, 33, 17),
    (8, 15, 32), (9, 16, 31), (13, 95, 33), (17, 96, 97), (31, 97, 95), (33, 5, 96), (2, 300, 11),
)  # fmt: skip
_SHAPES = ((7, 5), (1, 3), (0, 5), (5, 15), (6, 16), (9, 17), (3, 31), (8, 33), (2, 97), (3, 5, 7))


def _dense_case(n, d_in, units, bias=True):
    shapes = {"x": (n, d_in), "w": (d_in, units), "b": (units,)}
    return Case(shapes if bias else {k: shapes[k] for k in ("x", "w")})


_ACTIVATION_CASES = tuple(
    Case({"x": shape}, {"kind": kind, **options})
    for kind, options in [(k, {}) for k in ACTIVATIONS if k != "softmax"]
    + [("leaky_relu", {"slope": 0.01}), ("elu", {"alpha": 0.7})]
    for shape in ((7, 5), (1, 3), (0, 5), (3, 33), (2, 97))
)
_LOSS_CASES = tuple(
    Case({"p": shape, "w": shape[:-1]}, {"kind": kind, **options})
    for kind, loss in LOSSES.items()
    for options in loss.options
    for shape in ((7, 5), (1, 3), (0, 5), (17, 16), (9, 33), (3, 97), (2, 3, 5))
)


def _images(cases):
    return tuple(Case({"x": shape}, options) for shape, options in cases)


OPS: dict[str, Op] = {
    "input": Op(
        lambda x: np.asarray(x, np.float64), lambda x, dy: (dy,),
        tuple(Case({"x": shape}) for shape in _SHAPES), sample_normal,
    ),
    "dense": Op(
        dense_forward, dense_backward,
        (*(_dense_case(*sizes) for sizes in _DENSE_SIZES), _dense_case(7, 3, 5, bias=False)),
        sample_normal, ("x", "w", "b"),
    ),
    "activation": Op(activation_forward, activation_backward, _ACTIVATION_CASES, sample_activation),
    "softmax": Op(
        softmax, lambda x, dy: (softmax_backward(x, softmax(x), dy),),
        tuple(Case({"x": shape}) for shape in _SHAPES), sample_normal,
    ),
    "dropout": Op(
        lambda x, mask, rate: x * mask / (1 - rate),
        lambda x, mask, dy, rate: (dy * mask / (1 - rate),),
        tuple(Case({"x": shape}, {"rate": rate}) for shape in _SHAPES for rate in (0.0, 0.2, 0.7)),
        sample_dropout,
    ),
    "rescale": Op(
        lambda x, scale, offset=0.0: x * scale + offset,
        lambda x, dy, scale, offset=0.0: (dy * scale,),
        tuple(
            Case({"x": shape}, attributes)
            for shape in _SHAPES
            for attributes in ({"scale": 1 / 255}, {"scale": -0.7, "offset": 0.3})
        ),
        sample_normal,
    ),
    "normalization": Op(
        normalization_forward, normalization_backward,
        tuple(Case({"x": s, "mean": s[-1:], "var": s[-1:]}) for s in _SHAPES),
        sample_normalization,
    ),
    "affine": Op(
        augment.affine_forward, augment.affine_backward, _images(augment.AFFINE_CASES),
        augment.sample,
    ),
    "tone": Op(
        augment.tone_forward, augment.tone_backward, _images(augment.TONE_CASES),
        augment.sample_tone,
    ),
    "noise": Op(
        lambda x, z, stddev: x + stddev * z, lambda x, z, dy, stddev: (dy,),
        _images(augment.NOISE_CASES), augment.sample_noise,
    ),
    "erase": Op(
        augment.erase_forward, augment.erase_backward, _images(augment.ERASE_CASES), augment.sample
    ),
    "loss": Op(loss_forward, loss_backward, _LOSS_CASES, sample_loss, ("p",)),
}  # fmt: skip

from reference_conv import CONV_OPS  # noqa: E402 - these build on the names above
from reference_graph import GRAPH_OPS  # noqa: E402
from reference_images import IMAGE_OPS  # noqa: E402

OPS |= CONV_OPS | GRAPH_OPS | IMAGE_OPS

# ----------------------------------------------------------------------------- optimizers


def global_clip(gradients, c):
    """Scale all gradients by min(1, c / norm), the norm being taken over all of them together."""
    norm = math.sqrt(sum(float((g * g).sum()) for g in gradients))
    return [g * min(1.0, c / norm) if norm else g for g in gradients]


@dataclass(frozen=True)
class Optimizer:
    """One update rule. `step` returns the new weights and changes `state` in place."""

    slots: Callable  # (w, hyper) -> {slot name: array}
    rule: Callable  # (w, g, state, t, hyper) -> new w
    defaults: dict[str, Any]

    def init(self, w, **hyper):
        return self.slots(np.asarray(w, np.float64), {**self.defaults, **hyper})

    def step(self, w, g, state, t, is_kernel=True, *, l1=0.0, l2=0.0, clipvalue=None, **hyper):
        """One step; t counts from 1. Penalties and weight decay leave biases alone."""
        h = {"weight_decay": 0.0, **self.defaults, **hyper}
        if clipvalue is not None:
            g = np.clip(g, -clipvalue, clipvalue)
        if is_kernel:
            g = g + l1 * np.sign(w) + 2 * l2 * w
            w = w - h["learning_rate"] * h["weight_decay"] * w
        return self.rule(w, g, state, t, h)


def sgd_rule(w, g, s, t, h):
    momentum, lr = h["momentum"], h["learning_rate"]
    s["velocity"] = momentum * s["velocity"] - lr * g
    return w + (momentum * s["velocity"] - lr * g if h["nesterov"] else s["velocity"])


def adam_rule(w, g, s, t, h):
    b1, b2 = h["beta_1"], h["beta_2"]
    s["m"] = s["m"] + (1 - b1) * (g - s["m"])
    s["v"] = s["v"] + (1 - b2) * (g * g - s["v"])
    rate = h["learning_rate"] * math.sqrt(1 - b2**t) / (1 - b1**t)
    return w - rate * s["m"] / (np.sqrt(s["v"]) + h["epsilon"])


def rmsprop_rule(w, g, s, t, h):
    s["v"] = h["rho"] * s["v"] + (1 - h["rho"]) * g * g
    s["m"] = h["momentum"] * s["m"] + h["learning_rate"] * g / np.sqrt(s["v"] + h["epsilon"])
    return w - s["m"]


def adagrad_rule(w, g, s, t, h):
    s["accumulator"] = s["accumulator"] + g * g
    return w - h["learning_rate"] * g / np.sqrt(s["accumulator"] + h["epsilon"])


def _zeros(*names):
    return lambda w, h: {name: np.zeros_like(w) for name in names}


def _adagrad_slots(w, h):
    return {"accumulator": np.full_like(w, h["initial_accumulator_value"])}


_ADAM = {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
_SGD = {"learning_rate": 0.01, "momentum": 0.0, "nesterov": False}
_RMSPROP = {"learning_rate": 0.001, "rho": 0.9, "momentum": 0.0, "epsilon": 1e-7}
_ADAGRAD = {"learning_rate": 0.001, "initial_accumulator_value": 0.1, "epsilon": 1e-7}

OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Optimizer(_zeros("velocity"), sgd_rule, _SGD),
    "adam": Optimizer(_zeros("m", "v"), adam_rule, _ADAM),
    "adamw": Optimizer(_zeros("m", "v"), adam_rule, {**_ADAM, "weight_decay": 0.004}),
    "rmsprop": Optimizer(_zeros("v", "m"), rmsprop_rule, _RMSPROP),
    "adagrad": Optimizer(_adagrad_slots, adagrad_rule, _ADAGRAD),
}

# ----------------------------------------------------------------------------- metrics


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

# ----------------------------------------------------------------------------- a dense chain

_FUSED = {("cross_entropy", "softmax"), ("binary_cross_entropy", "sigmoid")}


def forward(weights, activations, x):
    """All (pre-activation, activation) pairs of a chain; weights are [w1, b1, w2, b2, ...]."""
    y, trace = np.asarray(x, np.float64), []
    for i, name in enumerate(activations):
        z = dense_forward(y, weights[2 * i], weights[2 * i + 1])
        y = ACTIVATIONS[name].forward(z)
        trace.append((z, y))
    return trace


def predict(weights, activations, x):
    return forward(weights, activations, x)[-1][1]


def gradients(weights, activations, loss, x, t, w=None, **loss_options):
    """The loss of one batch and its gradient with respect to every array of `weights`.

    A softmax before "cross_entropy", or a sigmoid before "binary_cross_entropy", is part of the
    loss: the loss is then given the logits, as the engine's is.
    """
    if (loss, activations[-1]) in _FUSED:
        activations = [*activations[:-1], "linear"]
    trace = forward(weights, activations, x)
    value = LOSSES[loss].value(trace[-1][1], t, w, **loss_options)
    dy = LOSSES[loss].gradient(trace[-1][1], t, w, **loss_options)
    result: list[np.ndarray] = []
    for i in reversed(range(len(activations))):
        z, y = trace[i]
        dz = ACTIVATIONS[activations[i]].backward(z, y, dy)
        below = trace[i - 1][1] if i else np.asarray(x, np.float64)
        dy, dw, db = dense_backward(below, weights[2 * i], weights[2 * i + 1], dz)
        result[:0] = [dw, db]
    return value, result


def train(
    weights, activations, loss, optimizer, batches,
    *, loss_options=None, global_clipnorm=None, learning_rate=None, **hyper,
):  # fmt: skip
    """Train a chain of dense layers, one step for each batch.

    weights : [w1, b1, w2, b2, ...], kernels (d_in, units), biases (units,); they are not changed.
    activations : one name for each layer.   loss, optimizer : names.
    batches : iterable of (x, t) or (x, t, sample weights).
    learning_rate : number, callable of the step counted from 0, or None for the default.
    hyper : what Optimizer.step takes: momentum, l1, l2, clipvalue, weight_decay, ...

    Returns (weights after the last step, [loss of each batch before its step]).
    """
    rule = OPTIMIZERS[optimizer]
    weights = [np.array(v, np.float64) for v in weights]
    states = [rule.init(v, **hyper) for v in weights]
    losses = []
    for step, (x, t, *w) in enumerate(batches):
        value, grads = gradients(weights, activations, loss, x, t, *w, **(loss_options or {}))
        losses.append(value)
        if global_clipnorm is not None:
            grads = global_clip(grads, global_clipnorm)
        if learning_rate is not None:
            rate = learning_rate(step) if callable(learning_rate) else learning_rate
            hyper["learning_rate"] = rate
        weights = [
            rule.step(v, g, state, step + 1, is_kernel=v.ndim > 1, **hyper)
            for v, g, state in zip(weights, grads, states, strict=True)
        ]
    return weights, losses
