"""The rivals of `fastnet bench`: the same work done by each library at its best setting.

One file a library, each with a class ``Train`` and a class ``Predict`` where the library can do
that, for networks of images (`nets.py`) one file more, and for k-means (`clusters.py`) one for
all. A worker process (`worker.py`) loads
this package by its path, so nothing here imports fastnet unless fastnet itself is measured, and a
library is imported only by its own workers.

Every class starts from the same weights, reads the same rows in the same order (row 0 first, a
shorter last minibatch) and minimises the same loss: the mean cross entropy of a softmax over relu
layers. Momentum and Adam follow Keras's formulas.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

LABELS = {
    "fastnet": "fastnet",
    "numpy": "NumPy",
    "sklearn": "scikit-learn",
    "torch": "PyTorch",
    "jax": "JAX jit+scan",
    "onnxruntime": "ONNX Runtime",
    "onedal": "oneDAL",
    "faiss": "faiss",
}
NETWORKS = ("fastnet", "numpy", "sklearn", "torch", "jax", "onnxruntime")
CLUSTERING = ("fastnet", "sklearn", "onedal", "faiss")
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7
CHECKED_ROWS = 500  # images that a trained network is asked about


class RefusedError(Exception):
    """This library cannot do this piece of work in the same way; the message says why."""


@dataclass(frozen=True)
class Job:
    """One piece of work.

    kind : "train" (one epoch) or "predict" (one call over all of x); or of k-means, see
        `clusters.py`.
    net : a name of `nets.NETS`, or "" for dense layers of `widths`.
    optimizer : "sgd" or "adam".
    x : (rows, widths[0]) float32.   y : (rows,) int64 labels.
    weights : [kernel (d_in, units), bias (units,), ...] float32, the starting point.
    threads : int, or None for the library's own default.
    """

    kind: str
    widths: tuple[int, ...]
    batch: int
    optimizer: str
    lr: float
    momentum: float
    x: Any
    y: Any
    weights: list[Any]
    threads: int | None = 1
    net: str = ""
    iterations: int = 0


class Work:
    """What a worker runs: `reset` (not timed), then `run` (timed), then `result`."""

    def reset(self) -> None:
        """Go back to the starting weights with fresh optimizer state."""

    def run(self) -> None:
        """Train one epoch, or predict all rows once; done when it returns."""
        raise NotImplementedError

    def result(self) -> list[Any]:
        """Return the weights after training, or ``[probabilities]``: of a prediction, and of the
        first `CHECKED_ROWS` images after training on images."""
        raise NotImplementedError


def make_work(library: str, job: Job) -> Work:
    """Return the work of `library`.

    Raises RefusedError where the library does not do this, ImportError where it is not installed.
    """
    if job.kind in clusters.KINDS:
        return clusters.make_work(library, job)
    if job.net and library not in ("fastnet", "torch"):
        raise RefusedError(f"{LABELS[library]} does not {job.kind} on images")
    module = importlib.import_module(f".{'images_' if job.net else ''}with_{library}", __name__)
    work = getattr(module, job.kind.capitalize(), None)
    if work is None:
        raise RefusedError(f"{LABELS[library]} does not {job.kind}")
    return work(job)


def mean_loss(job: Job, result: list[Any], max_rows: int = 10_000) -> float:
    """Return the mean cross entropy of a `Work.result` over the first rows, for any library; of
    k-means, the mean squared distance to the centres."""
    if job.kind in clusters.KINDS:
        return clusters.mean_distance(job, result, max_rows)
    y = job.y[:max_rows]
    if job.kind == "predict" or job.net:
        p = np.asarray(result[0], np.float64)[:max_rows]
        y = y[: len(p)]
        return float(-np.log(np.maximum(p[np.arange(len(y)), y], 1e-30)).mean())
    h = job.x[:max_rows]
    last = len(result) - 2
    for i in range(0, len(result), 2):
        h = h @ result[i] + result[i + 1]
        if i < last:
            h = np.maximum(h, 0)
    z = h.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    return float((np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y]).mean())


from . import clusters  # noqa: E402 - it needs the classes above
