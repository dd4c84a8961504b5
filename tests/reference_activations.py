"""The truth for activations, in float64 NumPy. Part of tests/reference.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_erfc = np.vectorize(math.erfc, otypes=[float])


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
