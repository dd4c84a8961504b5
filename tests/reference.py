"""The truth in float64 NumPy: every operation, loss, optimizer and metric, written to be read.

Nothing here is fast and nothing is clever. The compiled engine is compared with these functions;
these functions are compared with central differences and with other libraries (test_reference.py).
Here are the operations and the training loop; the rest is in reference_activations.py, _losses.py,
_optimizers.py and _metrics.py, and ops on images, convolutions and branches in files of their own.

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

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import reference_augment as augment
from reference_activations import (  # noqa: F401 (part of this module)
    ACTIVATIONS,
    away_from,
    elu,
    leaky_relu,
    sigmoid,
    softmax,
    softmax_backward,
)
from reference_losses import (  # noqa: F401 (part of this module)
    LOSSES,
    one_hot,
    row_weights,
    weighted_mean,
)
from reference_metrics import (  # noqa: F401 (part of this module)
    METRICS,
    accuracy,
    f1,
)
from reference_optimizers import (  # noqa: F401 (part of this module)
    OPTIMIZERS,
    Optimizer,
    global_clip,
)

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
