"""The truth for optimizers, in float64 NumPy. Part of tests/reference.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


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
