"""Plain NumPy, written by hand in its best form."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import BETA_1, BETA_2, EPSILON, Job, Work


class Train(Work):
    """Backpropagation by hand in its best form.

    float32 throughout; every array is allocated beforehand; all parameters lie in one vector, so
    that an update is a handful of calls; the learning rate is folded into the loss gradient; the
    logits are kept transposed, (classes, rows), because reductions over the first axis are
    faster; a minibatch of one row takes an outer product instead of a matrix product.
    """

    def __init__(self, job: Job):
        self.job = job
        size = sum(w.size for w in job.weights)
        self.flat, self.grad, self.slot, self.slot2, self.tmp = np.zeros((5, size), np.float32)
        self.params, self.grads = self.views(self.flat), self.views(self.grad)
        self.scale = job.lr if job.optimizer == "sgd" else 1.0
        self.shared: dict[int, tuple] = {}
        rows = len(job.x)
        starts = range(0, rows, job.batch)
        self.steps = [self.buffers(lo, min(lo + job.batch, rows)) for lo in starts]

    def views(self, flat):
        """Return the kernels and biases inside one flat vector, as [(W, b), ...]."""
        out, at = [], 0
        for w in self.job.weights:
            out.append(flat[at : at + w.size].reshape(w.shape))
            at += w.size
        return list(zip(out[::2], out[1::2], strict=True))

    def buffers(self, lo: int, hi: int):
        """Return what one minibatch needs; minibatches of one length share their arrays."""
        n, widths = hi - lo, self.job.widths
        if n not in self.shared:
            hidden = [np.empty((n, d), np.float32) for d in widths[1:-1]]
            back = [np.empty((n, d), np.float32) for d in widths[1:-1]]
            masks = [np.empty((n, d), bool) for d in widths[1:-1]]
            logits = np.empty((widths[-1], n), np.float32)
            row, one = np.empty(n, np.float32), np.ones(n, np.float32)
            self.shared[n] = hidden, back, masks, logits, row, one
        target = np.zeros((widths[-1], n), np.float32)
        target[self.job.y[lo:hi], np.arange(n)] = self.scale / n
        return self.job.x[lo:hi], target, np.float32(n / self.scale), *self.shared[n]

    def reset(self) -> None:
        self.flat[:] = np.concatenate([w.ravel() for w in self.job.weights])
        self.slot[:] = 0
        self.slot2[:] = 0
        self.t = 0

    def run(self) -> None:
        update = self.adam if self.job.optimizer == "adam" else self.sgd
        for step in self.steps:
            self.gradients(*step)
            update()

    def gradients(self, x, target, unscale, hidden, back, masks, logits, row, one) -> None:
        """Fill `grad` with the (scaled) gradient of the minibatch."""
        h = x
        for (w, b), z in zip(self.params[:-1], hidden, strict=True):
            np.dot(h, w, out=z)
            z += b
            np.maximum(z, 0, out=z)
            h = z
        w, b = self.params[-1]
        np.dot(w.T, h.T, out=logits)
        logits += b[:, None]
        np.maximum.reduce(logits, axis=0, out=row)
        logits -= row
        np.exp(logits, out=logits)
        np.add.reduce(logits, axis=0, out=row)
        row *= unscale
        logits /= row
        logits -= target
        d = logits.T
        for i in range(len(hidden), -1, -1):
            h = hidden[i - 1] if i else x
            dw, db = self.grads[i]
            if len(h) == 1:
                np.multiply(h.T, d, out=dw)
                np.copyto(db, d[0])
            else:
                np.dot(h.T, d, out=dw)
                np.dot(one, d, out=db)
            if i:
                np.dot(d, self.params[i][0].T, out=back[i - 1])
                d = back[i - 1]
                np.greater(h, 0, out=masks[i - 1])
                d *= masks[i - 1]

    def sgd(self) -> None:
        """v = momentum v - lr g; w += v (lr is in g already)."""
        self.slot *= self.job.momentum
        self.slot -= self.grad
        self.flat += self.slot

    def adam(self) -> None:
        """w -= lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + epsilon)."""
        self.t += 1
        g, m, v, tmp = self.grad, self.slot, self.slot2, self.tmp
        m *= BETA_1
        np.multiply(g, 1 - BETA_1, out=tmp)
        m += tmp
        v *= BETA_2
        g *= g
        g *= 1 - BETA_2
        v += g
        np.sqrt(v, out=tmp)
        tmp += EPSILON
        np.divide(m, tmp, out=tmp)
        tmp *= self.job.lr * (1 - BETA_2**self.t) ** 0.5 / (1 - BETA_1**self.t)
        self.flat -= tmp

    def result(self) -> list[Any]:
        return [a.copy() for pair in self.params for a in pair]


class Predict(Work):
    """Matrix products into arrays allocated beforehand, in blocks that stay in cache."""

    block = 1024

    def __init__(self, job: Job):
        n = min(self.block, len(job.x))
        self.layers = list(zip(job.weights[::2], job.weights[1::2], strict=True))
        self.hidden = [np.empty((n, d), np.float32) for d in job.widths[1:-1]]
        self.row = np.empty((n, 1), np.float32)
        self.p = np.empty((len(job.x), job.widths[-1]), np.float32)
        self.blocks = [(job.x[lo : lo + n], self.p[lo : lo + n]) for lo in range(0, len(job.x), n)]

    def run(self) -> None:
        for x, p in self.blocks:
            h, n = x, len(x)
            for (w, b), z in zip(self.layers[:-1], self.hidden, strict=True):
                h = np.dot(h, w, out=z[:n])
                h += b
                np.maximum(h, 0, out=h)
            w, b = self.layers[-1]
            np.dot(h, w, out=p)
            p += b
            row = self.row[:n]
            np.maximum.reduce(p, axis=1, keepdims=True, out=row)
            p -= row
            np.exp(p, out=p)
            np.add.reduce(p, axis=1, keepdims=True, out=row)
            p /= row

    def result(self) -> list[Any]:
        return [self.p]
