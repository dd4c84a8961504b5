"""JAX on the CPU: one compiled call an epoch."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import BETA_1, BETA_2, EPSILON, Job, Work


class Train(Work):
    """One jitted call an epoch: `lax.scan` over the minibatches, parameters donated."""

    def __init__(self, job: Job):
        import jax

        self.jax, self.job = jax, job
        whole = len(job.x) - len(job.x) % job.batch
        put = jax.numpy.asarray
        self.data = (
            put(job.x[:whole].reshape(-1, job.batch, job.widths[0])),
            put(job.y[:whole].astype(np.int32).reshape(-1, job.batch)),
            put(job.x[whole:]),
            put(job.y[whole:].astype(np.int32)),
        )
        self.epoch = jax.jit(self.make_epoch(whole < len(job.x)), donate_argnums=0)

    def make_epoch(self, rest: bool):
        """Return epoch(state, data) -> state; `rest` says that a shorter minibatch follows."""
        jax, step = self.jax, self.make_step()

        def epoch(state, data):
            x, y, x_rest, y_rest = data
            state, _ = jax.lax.scan(lambda s, xy: (step(s, *xy), None), state, (x, y))
            return step(state, x_rest, y_rest) if rest else state

        return epoch

    def make_step(self):
        """Return step(state, x, y) -> state for one minibatch."""
        jax, job = self.jax, self.job
        jnp, tree = jax.numpy, jax.tree.map

        def loss(params, x, y):
            for w, b in params[:-1]:
                x = jnp.maximum(x @ w + b, 0)
            w, b = params[-1]
            logp = jax.nn.log_softmax(x @ w + b)
            return -jnp.take_along_axis(logp, y[:, None], axis=1).mean()

        def sgd(state, x, y):
            params, v = state
            v = tree(lambda v, g: job.momentum * v - job.lr * g, v, jax.grad(loss)(params, x, y))
            return tree(jnp.add, params, v), v

        def adam(state, x, y):
            params, m, v, t = state
            g, t = jax.grad(loss)(params, x, y), t + 1
            m = tree(lambda m, g: m + (1 - BETA_1) * (g - m), m, g)
            v = tree(lambda v, g: v + (1 - BETA_2) * (g * g - v), v, g)
            lr = job.lr * jnp.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
            rule = lambda w, m, v: w - lr * m / (jnp.sqrt(v) + EPSILON)  # noqa: E731
            return tree(rule, params, m, v), m, v, t

        return adam if job.optimizer == "adam" else sgd

    def reset(self) -> None:
        put, w = self.jax.numpy.array, self.job.weights
        params = [(put(a), put(b)) for a, b in zip(w[::2], w[1::2], strict=True)]
        zeros = lambda: self.jax.tree.map(self.jax.numpy.zeros_like, params)  # noqa: E731
        self.state: Any = (params, zeros())
        if self.job.optimizer == "adam":
            self.state = (params, zeros(), zeros(), put(0.0))
        self.jax.block_until_ready(self.state)

    def run(self) -> None:
        self.state = self.jax.block_until_ready(self.epoch(self.state, self.data))

    def result(self) -> list[Any]:
        return [np.asarray(a) for pair in self.state[0] for a in pair]


class Predict(Work):
    """One jitted call, device array in, device array out."""

    def __init__(self, job: Job):
        import jax

        self.jax, put = jax, jax.numpy.asarray
        pairs = zip(job.weights[::2], job.weights[1::2], strict=True)
        self.params, self.x = [(put(a), put(b)) for a, b in pairs], put(job.x)

        def forward(params, x):
            for w, b in params[:-1]:
                x = jax.numpy.maximum(x @ w + b, 0)
            return jax.nn.softmax(x @ params[-1][0] + params[-1][1])

        self.forward = jax.jit(forward)

    def run(self) -> None:
        self.p = self.forward(self.params, self.x).block_until_ready()

    def result(self) -> list[Any]:
        return [np.asarray(self.p)]
