"""A run of Lloyd's iterations: by the engine where it can read the rows, else in blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _core, _sparse
from .data import Rows, not_finite, unit

if TYPE_CHECKING:
    from .statistics import Statistics


class Record(NamedTuple):
    """One iteration: `inertia` is of its labels to the centres that they were found with."""

    inertia: float
    moved: int  # rows with another label than before
    shift: float  # squared distance that all centres moved together
    distances: int  # row-centre distances computed on all features
    saved: int  # n * k less those


def as_engine_reads(x: Any) -> Any:
    """An array as it is; a CSR matrix as the tuple that the engine takes."""
    if isinstance(x, np.ndarray):
        return x
    return *_sparse.arrays(x), x.shape[1]


def metric_name(cosine: bool) -> str:
    return "cosine" if cosine else "euclidean"


def nearest(
    x: Any,
    centers: np.ndarray,
    *,
    labels: np.ndarray | None = None,
    distances: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    sums: np.ndarray | None = None,
    counts: np.ndarray | None = None,
    cosine: bool = False,
    threads: int = 0,
    inertia: bool = True,
) -> float:
    """Assign rows to the nearest of `centers`; returns the inertia. See `_core.kmeans_assign`.

    `distances` are squared; of rows and centres of length 1 that is 2 (1 - cos). Without `inertia`,
    0 is returned in its place.
    """
    total = _core.kmeans_assign(
        as_engine_reads(x), centers, labels=labels, distances=distances, sums=sums, counts=counts,
        sample_weight=weights, metric=metric_name(cosine), threads=threads, inertia=inertia,
    )  # fmt: skip
    if total is None:
        return 0.0
    return total / 2 if cosine else total


class Batches:
    """Centres that learn from batches of rows: mean of all rows that each has ever got, by weight.

    rows : where `batch` is given, batches are `batch` numbers of rows, and weights must be None;
    else a batch is all rows.
    """

    def __init__(self, rows: Rows, weights: np.ndarray | None, k: int, *, batch: int | None,
                 cosine: bool, threads: int):  # fmt: skip
        self.rows, self.weights, self.k, self.batch = rows, weights, k, batch
        self.cosine, self.threads = cosine, threads
        self.engine = None if rows.direct is None else self._engine(rows.direct, batch)

    def _engine(self, x: Any, batch: int | None) -> _core.KMeansBatches:
        return _core.KMeansBatches(
            as_engine_reads(x), self.weights, self.k, batch, metric=metric_name(self.cosine),
            threads=self.threads,
        )  # fmt: skip

    def learn(
        self, picked: np.ndarray | None, centers: np.ndarray, counts: np.ndarray
    ) -> tuple[float, float]:
        """A batch; `centers` and `counts` become those after it. Returns (inertia before, shift).

        ValueError, and nothing changed, where a row has NaN or infinity.
        """
        if self.rows.direct is None:
            if picked is None:
                return self._learn_in_blocks(centers, counts)
            self.engine = self._engine(self.rows.values(picked), None)
            picked = None
        assert self.engine is not None
        inertia, shift = self.engine.learn(picked, centers, counts)
        return inertia / 2 if self.cosine else inertia, shift

    def _learn_in_blocks(self, centers: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
        sums, got, inertia = np.zeros_like(centers), np.zeros_like(counts), 0.0
        for where, block in self.rows.blocks():
            inertia += nearest(
                block, centers, weights=None if self.weights is None else self.weights[where],
                sums=sums, counts=got, cosine=self.cosine, threads=self.threads,
            )  # fmt: skip
        some = got > 0
        after = centers.copy()
        after[some] = (centers[some] * counts[some, None] + sums[some]) / (counts + got)[some, None]
        if self.cosine:
            after = np.where(after.any(axis=1, keepdims=True), unit(after), centers)
        counts += got
        self.before = centers.copy()
        centers[:] = after
        return inertia, self.shift(centers)

    def shift(self, centers: np.ndarray) -> float:
        """Squared distance of these to the centres before the last batch."""
        if self.engine is not None:
            return self.engine.shift(centers)
        return float(((centers - self.before) ** 2).sum())

    def relabel(self, centers: np.ndarray, labels: np.ndarray) -> float | None:
        """Labels of the last batch for other centres, and its inertia; None: not known here."""
        if self.engine is None:
            return None
        inertia = self.engine.relabel(centers, labels)
        return inertia / 2 if self.cosine else inertia


def mean_variance(
    blocks: Callable[[], Iterable[tuple[slice, Any]]],
    weights: np.ndarray | None,
    cosine: bool,
    threads: int,
) -> float:
    """Mean of the variances of the columns, by weight; cosine: of the rows scaled to length 1."""
    center: np.ndarray | None = None
    count = np.zeros(1)
    for where, block in blocks():
        w = None if weights is None else weights[where]
        if center is None:
            center, sums = np.zeros((1, block.shape[1])), np.zeros((1, block.shape[1]))
        nearest(block, center, weights=w, sums=sums, counts=count, cosine=cosine, threads=threads)
    assert center is not None
    mean, d = sums / count, sums.shape[1]
    if cosine:
        return float(max(1 - (mean * mean).sum(), 0)) / d
    spread = 0.0
    for where, block in blocks():
        w = None if weights is None else weights[where]
        spread += nearest(block, mean, weights=w, threads=threads)
    return spread / float(count[0]) / d


class Direct:
    """The engine's own run, on rows that it reads where they lie."""

    def __init__(self, rows: Rows, weights: np.ndarray | None, k: int, *, cosine: bool,
                 algorithm: str, max_memory: int | None, threads: int):  # fmt: skip
        self.shape = (k, rows.shape[1])
        self.n = len(rows)
        self.fit = _core.KMeansFit(
            as_engine_reads(rows.direct), weights, k, metric=metric_name(cosine),
            algorithm=algorithm, max_memory=max_memory, threads=threads,
        )  # fmt: skip
        if self.fit.nonfinite is not None:
            row, column = self.fit.nonfinite
            raise not_finite(row, column, rows.source[row, column])
        if not math.isfinite(self.fit.variance):
            raise ValueError(
                "the sum of the squares of X, by sample_weight, is more than float64 holds "
                "(1.8e308): scale them down"
            )

    @property
    def centers(self) -> np.ndarray:
        return np.frombuffer(self.fit.centers, np.float64).reshape(self.shape).copy()

    @property
    def variance(self) -> float:
        return self.fit.variance

    def seed(self, method: str, seed: int, trials: int) -> np.ndarray:
        """Centres chosen by the engine."""
        indices = np.empty(self.shape[0], np.int64)
        self.fit.seed(method, seed, indices, trials)
        return self.centers

    def start(self, centers: np.ndarray, fixed: np.ndarray | None) -> None:
        self.fit.start(centers, None if fixed is None else fixed.view(np.uint8))

    def step(self, iterations: int, seconds: float, tolerance: float) -> list[Record]:
        return [Record(*record) for record in self.fit.step(iterations, seconds, tolerance)]

    def labels(self) -> tuple[np.ndarray, float]:
        out = np.empty(self.n, np.int32)
        inertia = self.fit.labels(out)
        return out, inertia


class InBlocks:
    """Rows that must be converted, a block at a time: an iteration is a pass over all of them."""

    def __init__(self, rows: Rows, weights: np.ndarray | None, k: int, *, cosine: bool,
                 threads: int):  # fmt: skip
        self.rows, self.weights, self.cosine, self.threads = rows, weights, cosine, threads
        self.k = k
        self.last = np.full(len(rows), -1, np.int32)
        self.centers = np.empty((k, rows.shape[1]))

    @property
    def variance(self) -> float:
        return mean_variance(self.rows.blocks, self.weights, self.cosine, self.threads)

    def _statistics(self, labels: np.ndarray) -> Statistics:
        from .statistics import statistics_of

        return statistics_of(self.rows, self.weights, self.centers, labels, cosine=self.cosine,
                             threads=self.threads, moments=False)  # fmt: skip

    def start(self, centers: np.ndarray, fixed: np.ndarray | None) -> None:
        self.centers, self.fixed = centers.copy(), fixed
        self.last.fill(-1)

    def step(self, iterations: int, seconds: float, tolerance: float) -> list[Record]:
        labels = np.empty_like(self.last)
        sums = self._statistics(labels)
        moved = int((labels != self.last).sum())
        new = sums.step(self.fixed, self.cosine)
        shift = float(((new - self.centers) ** 2).sum())
        self.last, self.centers = labels, new
        return [Record(sums.inertia, moved, shift, len(self.rows) * self.k, 0)]

    def labels(self) -> tuple[np.ndarray, float]:
        labels = np.empty(len(self.rows), np.int32)
        return labels, self._statistics(labels).inertia


def make_run(rows: Rows, weights: np.ndarray | None, k: int, *, cosine: bool, algorithm: str,
             max_memory: int | None, threads: int) -> Direct | InBlocks:  # fmt: skip
    if rows.direct is None:
        return InBlocks(rows, weights, k, cosine=cosine, threads=threads)
    return Direct(rows, weights, k, cosine=cosine, algorithm=algorithm, max_memory=max_memory,
                  threads=threads)  # fmt: skip
