"""What tests of the engine train: a classifier over a course of 200 steps, and a regression."""

import numpy as np
import pytest
from engine import Net, activation, dense, start_weights

from fastnet import _core

THREADS = (1, 2, 3, 4, 8)
BATCH, STEPS, CLASSES = 12, 200, 5
NUMBERS = {
    "sgd": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9},
    "adam": {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
    "rmsprop": {"rho": 0.9, "epsilon": 1e-7},
    "rmsprop_momentum": {"rho": 0.9, "momentum": 0.5, "epsilon": 1e-7},
    "adagrad": {"epsilon": 1e-7},
}
LIMITS = {"l1": 1e-4, "l2": 1e-3, "weight_decay": 0.01, "clipvalue": 0.02}
every_optimizer = pytest.mark.parametrize("name", _core.table("optimizer"))


def classifier(name, *, batch=BATCH, weighted=None, **options):
    """131-130-20-5 with dropout: a dense layer that is cut by columns, and two that are not."""
    layers = [dense(130), activation("relu"), ("dropout", {"rate": 0.3}), dense(20),
              activation("tanh"), ("dropout", {"rate": 0.1}), dense(CLASSES)]  # fmt: skip
    net = Net(131, layers, loss="cross_entropy", classes=True, weighted=weighted, max_rows=batch,
              metrics=[("accuracy", {})], **options)  # fmt: skip
    net.set_weights(start_weights(net, np.random.default_rng(3)))
    net.need(name, 0.1 if name == "adagrad" else 0.0)
    return net


def rows_and_labels(n, d_in=131, seed=1):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d_in)).astype(np.float32)
    x[rng.random(x.shape) < 0.5] = 0
    return x, rng.integers(CLASSES, size=n)


X, LABELS = rows_and_labels(600)
_EPOCHS = [np.random.default_rng(epoch).permutation(600) for epoch in range(4)]
ORDER = np.concatenate(_EPOCHS)[: STEPS * BATCH - 5]


def train(net, name, *, batch=BATCH, first=0, steps=STEPS, seed=11, limits=None, **options):
    """Steps [first, first + steps) of the course of 200; the last minibatch of it is short."""
    rows = min(len(ORDER) - first * batch, steps * batch)
    rates = [0.01 / (1 + 0.01 * step) for step in range(first, first + -(-rows // batch))]
    result = net.run(
        X, LABELS, order=ORDER, first=first * batch, rows=rows, batch=batch, rate=rates,
        step=first, seed=seed, optimizer=_core.Optimizer(name, **NUMBERS[name], **(limits or {})),
        **options,
    )  # fmt: skip
    assert (result.status, result.steps) == ("ok", len(rates))
    return result


@pytest.fixture
def regression():
    """x (50, 9), t (50, 3) float32, and a network for them."""
    rng = np.random.default_rng(6)
    x, t = rng.standard_normal((50, 9)).astype(np.float32), rng.random((50, 3)).astype(np.float32)
    net = Net(9, [dense(17), activation("relu"), dense(3)], loss="mse", max_rows=8)
    net.set_weights(start_weights(net, rng))
    return x, t, net


def fit(net, x, t, **options):
    return net.run(x, t, batch=8, optimizer=_core.Optimizer("sgd"), rate=0.1, **options)
