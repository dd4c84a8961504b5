"""fastnet on images, through its public names only."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import CHECKED_ROWS, Job, Work
from .nets import NETS, NORM_EPSILON, NORM_SHARE
from .with_fastnet import import_fastnet


class Train(Work):
    """`Trainer.fit` over arrays in memory, in the given order."""

    def __init__(self, job: Job):
        self.job = job
        self.fn, self.net, self.weights = make_net(job)
        self.x = job.x.reshape(-1, *NETS[job.net].shape)

    def reset(self) -> None:
        self.net.set_weights(self.weights)
        rule = self.fn.optimizers.Adam(self.job.lr)
        self.trainer = self.fn.Trainer(self.net, loss="cross_entropy", optimizer=rule)

    def run(self) -> None:
        self.trainer.fit(
            self.x, self.job.y, batch_size=self.job.batch, epochs=1, shuffle=False, progress=False
        )

    def result(self) -> list[Any]:
        return [self.net.predict(self.x[:CHECKED_ROWS])]


class Predict(Work):
    """`net.predict`, NumPy in, NumPy out."""

    def __init__(self, job: Job):
        _, self.net, weights = make_net(job)
        self.net.set_weights(weights)
        self.x = job.x.reshape(-1, *NETS[job.net].shape)

    def run(self) -> None:
        self.p = self.net.predict(self.x)

    def result(self) -> list[Any]:
        return [self.p]


def make_net(job: Job):
    """Return (fastnet, the network of the job, its starting weights in its own order)."""
    fn = import_fastnet(job)
    net, made = NETS[job.net], []

    def conv(x, filters: int, kernel: int, stride: int = 1):
        made.append(fn.layers.Conv2D(filters, kernel, stride, kernel // 2, use_bias=not net.norm))
        x = made[-1](x)
        if net.norm:
            made.append(fn.layers.BatchNorm(momentum=1 - NORM_SHARE, epsilon=NORM_EPSILON))
            x = made[-1](x)
        return x

    relu = lambda x: fn.layers.Activation("relu")(x)  # noqa: E731
    x = images = fn.Input(net.shape)
    for kind, *numbers in net.parts:
        if kind == "conv":
            x = relu(conv(x, *numbers))
        elif kind == "pool":
            x = fn.layers.MaxPool2D()(x)
        elif kind == "mean":
            x = fn.layers.GlobalAvgPool2D()(x)
        elif kind == "block":
            filters, stride = numbers
            y = conv(relu(conv(x, filters, 3, stride)), filters, 3)
            if stride > 1 or x.shape[-1] != filters:
                x = conv(x, filters, 1, stride)
            x = relu(fn.layers.Add()([y, x]))
        else:
            made.append(fn.layers.Dense(numbers[0], activation="softmax"))
            x = made[-1](fn.layers.Flatten()(x) if len(x.shape) > 1 else x)
    model = fn.Model(images, x, seed=0)
    return fn, model, in_order(fn, model, made, job.weights)


def in_order(fn, model, made, weights):
    """Return the weights of the layers `made` as the model lists them, with moving statistics."""
    left = iter(weights)
    own: dict[int, list[Any]] = {}
    for layer in made:
        norm = isinstance(layer, fn.layers.BatchNorm)
        kernel_alone = isinstance(layer, fn.layers.Conv2D) and not layer.use_bias
        own[id(layer)] = [next(left) for _ in range(1 if kernel_alone else 2)]
        if norm:
            gamma, beta = own[id(layer)]
            own[id(layer)] += [np.zeros_like(beta), np.ones_like(gamma)]
    return [w for layer in model.layers for w in own.get(id(layer), [])]
