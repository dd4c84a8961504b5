"""What tests of networks and training share: small networks and data, comparisons of bits."""

import numpy as np
import pytest

import fastnet as fn
from fastnet import layers, optimizers


def rows(n=37, features=5, seed=0):
    return np.random.default_rng(seed).standard_normal((n, features)).astype(np.float32)


def labels(n=37, classes=3, seed=1):
    return np.random.default_rng(seed).integers(0, classes, n)


def classifier(features=5, classes=3, hidden=7, seed=0, dropout=0.0):
    """A small softmax network, built."""
    net = fn.Sequential(
        [
            layers.Input(features),
            layers.Dense(hidden, activation="tanh"),
            layers.Dropout(dropout),
            layers.Dense(classes, activation="softmax"),
        ],
        seed=seed,
    )
    net.build()
    return net


def regressor(features=5, outputs=1, seed=0, last=None, hidden=6):
    net = fn.Sequential(
        [
            layers.Input(features),
            layers.Dense(hidden, activation="tanh"),
            layers.Dense(outputs, activation=last),
        ],
        seed=seed,
    )
    net.build()
    return net


def digest(net):
    """Every bit of the weights."""
    return b"".join(w.tobytes() for w in net.get_weights())


def assert_close(a, b, rtol=1e-5, atol=1e-6):
    for left, right in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=rtol, atol=atol)


OPTIMIZERS = {
    "sgd": optimizers.SGD(0.1),
    "momentum": optimizers.SGD(0.1, momentum=0.9),
    "nesterov": optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": optimizers.Adam(0.01),
    "adamw": optimizers.AdamW(0.01),
    "rmsprop": optimizers.RMSprop(0.01),
    "rmsprop_momentum": optimizers.RMSprop(0.01, momentum=0.8),
    "adagrad": optimizers.Adagrad(0.1),
    "limits": optimizers.SGD(0.1, l1=1e-3, l2=1e-2, weight_decay=0.1, clipvalue=0.02),
    "clipnorm": optimizers.Adam(0.01, global_clipnorm=0.1),
}
each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


def trained(net, x, y, **options):
    options = {"loss": "cross_entropy", "optimizer": "adam", "seed": 5, **options}
    net.fit(x, y, **options)
    return digest(net)


def chain(net):
    """Weights in float64 and activations, as the reference takes them."""
    weights = [w.astype(np.float64) for w in net.get_weights()]
    return weights, [layer.activation for layer in net.layers if hasattr(layer, "activation")]
