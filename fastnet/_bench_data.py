"""The rows that `fastnet bench` trains on, and the weights it starts from."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ._peers import nets


def synthetic_mnist(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return x (rows, 784) float32 in [0, 1], 19 % of it not zero as in MNIST, and y int64.

    Some labels are wrong, so that gradients do not vanish as they would on clean data.
    """
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 10, rows)
    coarse = rng.random((10, 7, 7), np.float32)
    coarse[:, [0, -1], :] = coarse[:, :, [0, -1]] = 0  # empty margins
    template = coarse.repeat(4, axis=1).repeat(4, axis=2).reshape(10, 784)
    x = np.empty((rows, 784), np.float32)
    for lo in range(0, rows, 8192):
        part = x[lo : lo + 8192]
        rng.random(out=part, dtype=np.float32)
        np.maximum(part * template[y[lo : lo + 8192]] - 0.281, 0, out=part)
        part /= 1 - 0.281
    return x, np.where(rng.random(rows) < 0.05, rng.integers(0, 10, rows), y)


def random_rows(rows: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x (rows, width) float32, normal, and y int64 by a random linear rule."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((rows, width), np.float32)
    rule = rng.standard_normal((width, classes), np.float32)
    return x, np.argmax(x @ rule, axis=1)


def blobs(rows: int, columns: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x (rows, columns) float32 in `count` round heaps that overlap, and their numbers."""
    rng = np.random.default_rng(0)
    centers = 3 * rng.normal(size=(count, columns))
    y = rng.integers(0, count, rows)
    return (centers[y] + rng.normal(size=(rows, columns))).astype(np.float32), y


def start_centers(x: np.ndarray, k: int) -> np.ndarray:
    """Return k different rows of x, (k, columns)."""
    return x[np.random.default_rng(1).choice(len(x), k, replace=False)].copy()


def start_weights(widths: Sequence[int]) -> list[np.ndarray]:
    """Return Glorot-uniform kernels and zero biases, float32, as [W, b, W, b, ...]."""
    rng = np.random.default_rng(2)
    out = []
    for d_in, units in itertools.pairwise(widths):
        limit = math.sqrt(6 / (d_in + units))
        out.append(rng.uniform(-limit, limit, (d_in, units)).astype(np.float32))
        out.append(np.zeros(units, np.float32))
    return out


class Arrays:
    """The arrays of the cases as files in a temporary folder, where workers load them."""

    def __init__(self, folder: str, synthetic: bool = False):
        self.folder, self.synthetic, self.note = Path(folder), synthetic, ""
        self.images: tuple[np.ndarray, np.ndarray] | None = None

    def mnist(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the first rows of MNIST's training set, or of a synthetic set like it."""
        if self.images is None or len(self.images[0]) < rows:
            self.images = None if self.synthetic else self.real_mnist()
        if self.images is None:
            self.images = synthetic_mnist(max(rows, 1000))
            self.note = "synthetic rows of MNIST's shape and sparsity"
        return self.images[0][:rows], self.images[1][:rows]

    def real_mnist(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return (x float32 in [0, 1], y), None where MNIST cannot be had."""
        try:
            from . import datasets

            (x, y), _ = datasets.load_mnist()
        except Exception:  # offline, no cache: the benchmark goes on with synthetic rows
            return None
        return (x.reshape(len(x), -1) / np.float32(255)).astype(np.float32, copy=False), y

    def files(self, case: Any) -> dict[str, str]:
        """Return the paths of x, y and weights of a case."""
        key = f"{case.data}-{case.rows}-{case.widths[0]}-{case.widths[-1]}"
        x, y = self.folder / f"x-{key}.npy", self.folder / f"y-{key}.npy"
        if not y.exists():
            if case.data == "mnist":
                arrays = self.mnist(case.rows)
            elif case.data == "blobs":
                arrays = blobs(case.rows, *case.widths)
            else:
                arrays = random_rows(case.rows, case.widths[0], case.widths[-1])
            np.save(x, np.ascontiguousarray(arrays[0]))
            np.save(y, arrays[1])
        name = key if case.clusters else case.net or "-".join(map(str, case.widths))
        weights = self.folder / f"w-{name}.npz"
        if not weights.exists():
            np.savez(weights, *self.start(case, x))
        return {"x": str(x), "y": str(y), "weights": str(weights)}

    @staticmethod
    def start(case: Any, x: Path) -> list[np.ndarray]:
        """Return what a case begins with: weights of a network, or centres out of the file x."""
        if case.clusters:
            return [start_centers(np.load(x), case.widths[1])]
        own = nets.start_weights(nets.NETS[case.net]) if case.net else None
        return own or start_weights(case.widths)
