"""Random networks of image layers, half of them with branches, beside their float64 twins.

    python tests/soak/random_networks.py [--count 5000] [--seed 0] [--level v3]

Each network predicts what its twin (tests/twin.py) computes, has its gradients, predicts the same
bits in any batch, and has the same gradients and trained weights for 1, 2 and 3 threads. Every
other network makes values again on the way back (csrc/again.c), whatever its size. A failure
prints the layers and the seed that makes them again.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import sys
from pathlib import Path

os.environ["FASTNET_ALWAYS_THREAD"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from twin import Twin

import fastnet as fn
from fastnet import _core, layers

CHANNELS = (1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 17, 20, 24, 32, 33)
ACTIVATIONS = ("linear", "relu", "tanh", "gelu", "elu")
MOST = 4000  # values behind a layer
PLAN = _core.Plan


class Draw:
    """Random arguments of layers."""

    def __init__(self, rng, axes):
        self.rng, self.axes = rng, axes

    def number(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def per_axis(self, low, high):
        return tuple(self.number(low, high) for _ in range(self.axes))

    def sides(self, most):
        pairs = tuple((self.number(0, most), self.number(0, most)) for _ in range(self.axes))
        return pairs if self.axes > 1 else pairs[0]

    def one_of(self, values):
        return values[self.number(0, len(values) - 1)]

    def flag(self):
        return bool(self.number(0, 1))

    def padding(self):
        return self.one_of(["same", "valid"])

    def layer(self):
        kinds = [self.pool, self.pool, self.border, self.sized, self.norm, self.plain]
        return self.one_of(kinds + [self.convolution] * 5)()

    def named(self, name):
        return getattr(layers, f"{name}{self.axes}D")

    def pool(self):
        if self.number(0, 9) == 0:
            return self.named(self.one_of(["GlobalMaxPool", "GlobalAvgPool"]))()
        cls = self.named(self.one_of(["MaxPool", "AvgPool"]))
        if self.flag():
            return cls(2)
        padding = self.one_of(["same", "valid", self.sides(1)])
        return cls(self.per_axis(1, 4), self.per_axis(1, 3), padding, ceil_mode=self.flag())

    def border(self):
        return self.named(self.one_of(["ZeroPadding", "Cropping"]))(self.sides(2))

    def sized(self):
        if self.axes == 1:
            return layers.UpSampling1D(self.number(1, 3))
        how = self.one_of(["nearest", "bilinear"])
        return layers.UpSampling2D(self.per_axis(1, 3), interpolation=how)

    def norm(self):
        flags = {"center": self.flag(), "scale": self.flag()}
        kind = self.number(0, 3)
        if kind == 0:
            return layers.LayerNorm(**flags)
        if kind == 1:
            return layers.BatchNorm(**flags)
        return layers.GroupNorm(self.one_of([-1, 1, 2, 3, 4]), **flags)

    def plain(self):
        return layers.Activation(self.one_of(ACTIVATIONS))

    def convolution(self):
        filters, activation = self.one_of(CHANNELS), self.one_of(ACTIVATIONS)
        kernel, strides, padding = self.per_axis(1, 5), self.per_axis(1, 2), self.padding()
        options = {"padding": padding, "activation": activation, "use_bias": self.flag()}
        if self.axes == 1:
            return layers.Conv1D(filters, kernel, strides=strides, **options)
        kind = self.number(0, 7)
        if kind == 0:
            many = self.number(1, 2)
            return layers.DepthwiseConv2D(kernel, depth_multiplier=many, **options)
        if kind == 1:
            return layers.SeparableConv2D(filters, kernel, **options)
        if kind == 2:
            return layers.Conv2DTranspose(filters, kernel, strides=strides, **options)
        if kind == 3:
            return layers.Conv2D(2 * self.number(1, 9), kernel, groups=2, **options)
        if kind == 4:
            return layers.Conv2D(filters, kernel, dilation_rate=strides, **options)
        if kind == 5:
            return layers.Conv2D(filters, 3, **options)
        return layers.Conv2D(filters, kernel, strides=strides, **options)


def random_layer(draw, tensor):
    """(layer, what it gives) of a layer that can take `tensor`."""
    while True:
        try:
            layer = draw.layer()
            y = layer(tensor)
        except ValueError:  # a pool larger than the image, groups that do not divide, ...
            continue
        if math.prod(y.shape) <= MOST:
            return layer, y


def joined(draw, past, h):
    """A way past a layer; where shapes do not allow that, what the layer gave."""
    if h.shape == past.shape:
        kind = draw.one_of(["Add", "Subtract", "Multiply", "Average", "Maximum"])
        return getattr(layers, kind)()([past, h])
    if h.shape[:-1] == past.shape[:-1]:
        return layers.Concatenate()([h, past])
    return h


def random_network(rng, seed):
    """Up to six layers that fit one another, some with a way past them or used twice, and Dense(3)
    behind them; weights all random."""
    draw = Draw(rng, 1 if rng.random() < 0.2 else 2)
    x = h = fn.Input((*draw.per_axis(1, 12), draw.one_of(CHANNELS)))
    branches = draw.flag()
    for _ in range(draw.number(1, 6)):
        past = h
        layer, h = random_layer(draw, past)
        if branches and h.shape == past.shape and draw.number(0, 3) == 0:
            h = layer(h)
        if branches and draw.number(0, 1):
            h = joined(draw, past, h)
        if len(h.shape) == 1:
            break
    net = fn.Model(x, layers.Dense(3)(layers.Flatten()(h)), seed=seed)
    net.set_weights([w + 0.2 * rng.standard_normal(w.shape) for w in net.get_weights()])
    return net


def bits(arrays):
    return b"".join(a.tobytes() for a in arrays)


def check_values(net, x, target):
    """Predictions and gradients are the twin's; zero gradients may be rounding errors of others."""
    twin = Twin(net)
    y, want = net.predict(x), twin.predict(x)
    assert np.abs(y - want).max() <= 2e-4 * np.abs(want).max(), "predictions"
    got = fn.Trainer(net, loss="mse").gradients(x, target)
    _, wanted = twin.gradients(x, target, "mse")
    largest = max(np.abs(w).max() for w in wanted)
    assert largest > 1e-3, "no gradient"
    for i, (a, b) in enumerate(zip(got, wanted, strict=True)):
        off, size = np.abs(a - b).max(), np.abs(b).max()
        assert off <= 1e-3 * max(size, 0.02 * largest), f"gradient {i}: {off} of {size}"


def check_bits(net, x, target, batch_size):
    whole = net.predict(x).tobytes()
    for rows in (1, 5):
        assert net.predict(x, batch_size=rows).tobytes() == whole, f"batches of {rows}"
    start, results = net.get_weights(), []
    for threads in (1, 2, 3):
        net.set_weights(start)
        trainer = fn.Trainer(net, loss="mse", optimizer="adam")
        with fn.threads(threads):
            gradients = trainer.gradients(x, target)
            trainer.fit(x, target, batch_size=batch_size, epochs=2, seed=1, progress=False)
        results.append(bits(gradients) + bits(net.get_weights()))
    assert results == results[:1] * 3, "threads"


def check(seed):
    rng = np.random.default_rng(seed)
    _core.Plan = functools.partial(PLAN, again=("auto", "always")[seed % 2])
    net = random_network(rng, seed)
    try:
        n = int(rng.choice([1, 2, 3, 5, 7, 16, 33, 64]))
        x = rng.standard_normal((n, *net.input_shape)).astype(np.float32)
        target = rng.standard_normal((n, 3)).astype(np.float32)
        check_values(net, x, target)
        check_bits(net, x, target, int(rng.choice([1, 2, 3, 7, 16, 32])))
    except Exception as error:
        raise SystemExit(f"seed {seed}, {n} rows: {error!r}\n{net.layers}") from error


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000, help="how many networks")
    parser.add_argument("--seed", type=int, default=0, help="of the first; the next has one more")
    parser.add_argument("--level", default=_core.simd_level(), help="SIMD level")
    options = parser.parse_args()
    if not _core.choose_simd(options.level):
        raise SystemExit(f"this processor has no level {options.level}")
    for seed in range(options.seed, options.seed + options.count):
        check(seed)
    print(f"{options.count} networks at level {options.level}: all as their twins")
    return 0


if __name__ == "__main__":
    sys.exit(main())
