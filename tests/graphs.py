"""Networks with branches for tests, and their outputs and gradients in float64."""

import numpy as np
import reference as ref
from training import labels, rows

import fastnet as fn
from fastnet import layers

# ---- networks -----------------------------------------------------------------------------------


def residual(seed=0):
    """One input and one output; a value that three layers read."""
    x = fn.Input(5)
    h = layers.Dense(7, activation="tanh")(x)
    y = layers.Add()([h, layers.Dense(7, activation="sigmoid")(h)])
    z = layers.Concatenate()([y, h, x])
    return fn.Model(x, layers.Dense(3, activation="softmax")(z), seed=seed)


def two_by_two(seed=0, dropout=0.0):
    """Two inputs through one shared layer, two outputs that share most of the way."""
    a, b = fn.Input(5, name="left"), fn.Input(5, name="right")
    tower = layers.Dense(6, activation="tanh", name="tower")
    u, v = tower(a), tower(b)
    far = layers.Subtract(name="far")([u, v])
    both = layers.Concatenate(name="both")([far, u * v, a])
    h = layers.Dense(7, activation="tanh", name="hidden")(both)
    h = layers.Dropout(dropout, name="drop")(h)
    kind = layers.Dense(3, activation="softmax", name="kind")(h)
    size = layers.Dense(1, name="size")(layers.Maximum(name="most")([h, far_wide(far)]))
    return fn.Model([a, b], [kind, size], seed=seed)


def far_wide(x):
    return layers.Dense(7, name="wide")(x)


def data(n=37):
    xs = [rows(n, seed=1), rows(n, seed=2)]
    return xs, [labels(n), rows(n, 1, seed=3)]


LOSSES = {"kind": "cross_entropy", "size": "mse"}


# ---- the truth ----------------------------------------------------------------------------------


def dense64(layer, x, weights):
    kernel, bias = weights
    return ref.ACTIVATIONS[layer.activation].forward(x @ kernel + bias)


FORWARD = {
    layers.Dense: dense64,
    layers.Add: lambda layer, xs, w: sum(xs),
    layers.Subtract: lambda layer, xs, w: xs[0] - xs[1],
    layers.Multiply: lambda layer, xs, w: np.prod(xs, axis=0),
    layers.Average: lambda layer, xs, w: np.mean(xs, axis=0),
    layers.Maximum: lambda layer, xs, w: np.max(xs, axis=0),
    layers.Concatenate: lambda layer, xs, w: np.concatenate(xs, axis=layer.axis),
    layers.Dropout: lambda layer, x, w: x,
    layers.Flatten: lambda layer, x, w: x.reshape(len(x), -1),
    layers.Activation: lambda layer, x, w: ref.ACTIVATIONS[layer.activation].forward(x),
}


def forward64(network, xs, weights):
    """Outputs in float64, layer by layer; weights: {layer: arrays}."""
    graph = network._graph
    values = [np.asarray(x, np.float64) for x in xs]
    for made in graph.calls:
        read = [values[v] for v in made.inputs]
        inside = getattr(made.layer, "inside", None)
        if inside is not None:
            values += forward64(inside, read, weights)
            continue
        own = weights.get(id(made.layer), [])
        f = FORWARD[type(made.layer)]
        values.append(f(made.layer, read if made.layer.several else read[0], own))
    return [values[v] for v in graph.outputs]


def by_layer(network, flat):
    taken, result = list(flat), {}
    for _, layer in network._leaves():
        result[id(layer)] = [taken.pop(0) for _ in layer.weights()]
    return result


def value64(kind, p, t, w=None):
    """A loss on probabilities, which is what the network's outputs are."""
    if kind == "cross_entropy":
        t = ref.one_hot(t, p.shape[-1])
        return ref.weighted_mean(-(t * np.log(p)).sum(axis=-1), w)
    return ref.LOSSES[kind].value(p, t.astype(np.float64), w)


def check_gradients(network, xs, ys, losses, scales=None, weights=None):
    """trainer.gradients against central differences of the network in float64."""
    scales = scales or [1.0] * len(ys)
    weights = weights or [None] * len(ys)
    single = len(ys) == 1
    trainer = fn.Trainer(network, losses, loss_weights=None if single else scales)
    given = None if single else weights
    x = xs[0] if len(xs) == 1 else xs
    got = trainer.gradients(x, ys[0] if single else ys, given)
    flat = [w.astype(np.float64) for w in network.get_weights()]

    def value():
        outputs = forward64(network, xs, by_layer(network, flat))
        return sum(
            scale * value64(loss, p, t, w)
            for scale, loss, p, t, w in zip(scales, losses, outputs, ys, weights, strict=True)
        )

    rng = np.random.default_rng(0)
    for array, gradient in zip(flat, got, strict=True):
        assert np.abs(gradient).max() > 1e-3
        for i in rng.permutation(array.size)[:8]:
            start = array.flat[i]
            array.flat[i] = start + 1e-5
            up = value()
            array.flat[i] = start - 1e-5
            slope = (up - value()) / 2e-5
            array.flat[i] = start
            np.testing.assert_allclose(gradient.flat[i], slope, rtol=2e-4, atol=2e-6)
