"""Initial centres: by the engine where it can read the rows, else here, block by block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .data import Rows
from .engine import Direct, nearest

METHODS = ("k-means++", "k-means||", "random")
#: Below this many values the choice depends neither on the order of rows nor on whether a row comes
#: three times or with weight 3: what is drawn from are the distinct rows, sorted.
_CANONICAL = 1 << 17
_ROUNDS = 5  # of k-means||
_SAMPLE = 1 << 16


def initial_centers(
    rows: Rows,
    weights: np.ndarray | None,
    k: int,
    method: str,
    seed: int,
    *,
    cosine: bool,
    threads: int,
    run: Any = None,
    known: np.ndarray | None = None,
) -> np.ndarray:
    """k centres as float64 (k, d), chosen among the rows of weight > 0.

    `known` (m, d) centres come first and stay. `run` may be a `Direct` run on these rows.
    """
    if known is not None and len(known) == k:
        return known.copy()
    small = rows.direct is not None and rows.shape[0] * rows.shape[1] <= _CANONICAL
    if small:
        rows, weights = distinct(rows, weights)
        run = None
    if k <= len(rows) and known is None and rows.direct is not None:
        if run is None:
            run = Direct(rows, weights, k, cosine=cosine, algorithm="auto", max_memory=None,
                         threads=threads)  # fmt: skip
        if isinstance(run, Direct):
            return run.seed(method, seed, 0)
    chooser = _Chooser(rows, weights, cosine, threads, np.random.default_rng(seed))
    return chooser.choose(k, method, known)


def added_centers(
    rows: Rows,
    weights: np.ndarray | None,
    k: int,
    seed: int,
    known: np.ndarray,
    *,
    cosine: bool,
    threads: int,
) -> np.ndarray:
    """k centres: the known ones, and more by k-means++."""
    return initial_centers(rows, weights, k, "k-means++", seed, cosine=cosine, threads=threads,
                           known=known)  # fmt: skip


def distinct(rows: Rows, weights: np.ndarray | None) -> tuple[Rows, np.ndarray]:
    """The different rows of weight > 0, sorted, and what each weighs in all."""
    values = rows.values(slice(0, len(rows)))
    w = np.ones(len(values)) if weights is None else weights
    values, w = values[w > 0] + values.dtype.type(0), w[w > 0]  # + 0: no -0
    order = _sorted_bytes(values)
    values, w = values[order], w[order]
    new = np.ones(len(values), bool)
    new[1:] = (values[1:] != values[:-1]).any(axis=1)
    kept = np.ascontiguousarray(values[new])
    return Rows(kept, rows.dtype, kept.dtype), np.add.reduceat(w, np.flatnonzero(new))


def _sorted_bytes(values: np.ndarray) -> np.ndarray:
    """An order of rows that depends on their bits alone."""
    whole = np.ascontiguousarray(values, np.float64)  # the same order for any dtype
    texts = whole.view(f"V{whole.itemsize * whole.shape[1]}")[:, 0]
    return np.argsort(texts, kind="stable")


class _Chooser:
    """Seeding on anything that comes in blocks."""

    def __init__(self, rows: Rows, weights: np.ndarray | None, cosine: bool, threads: int,
                 rng: np.random.Generator):  # fmt: skip
        self.rows, self.cosine, self.threads, self.rng = rows, cosine, threads, rng
        self.weights = np.ones(len(rows)) if weights is None else weights

    def choose(self, k: int, method: str, known: np.ndarray | None) -> np.ndarray:
        if method == "random":
            new = self._row(self._random(k - (0 if known is None else len(known))))
            return new if known is None else np.concatenate([known, new])
        if method == "k-means||" and known is None:
            return self._parallel(k)
        return self._plusplus(k, known)

    def _row(self, numbers: Any) -> np.ndarray:
        return self.rows.values(np.atleast_1d(numbers)).astype(np.float64)

    def _random(self, count: int) -> np.ndarray:
        """Different rows, a heavier one sooner; all of them again where there are too few."""
        keys = self.rng.standard_exponential(len(self.rows))
        with np.errstate(divide="ignore"):
            keys = np.where(self.weights > 0, keys / self.weights, np.inf)
        order = np.argsort(keys, kind="stable")[: int((self.weights > 0).sum())]
        return np.resize(order, count)

    def _distances(self, centers: np.ndarray) -> np.ndarray:
        """Squared distance of each row to the nearest of these."""
        out = np.empty(len(self.rows))
        for where, block in self.rows.blocks():
            nearest(block, centers, distances=out[where], cosine=self.cosine, threads=self.threads)
        return out

    def _draw(self, mass: np.ndarray, count: int) -> np.ndarray:
        """Rows drawn by mass; by weight where there is no mass left."""
        sums = np.cumsum(mass)
        if not sums[-1] > 0:
            sums = np.cumsum(self.weights)
        at = np.searchsorted(sums, self.rng.random(count) * sums[-1], side="right")
        return np.minimum(at, np.flatnonzero(np.diff(sums, prepend=0))[-1])

    def _plusplus(self, k: int, known: np.ndarray | None) -> np.ndarray:
        """Greedy: of 2 + log k rows drawn, the one that leaves the least inertia."""
        centers = known if known is not None else self._row(self._draw(self.weights, 1))
        far = self._distances(centers)
        trials = 2 + int(np.log(k))
        while len(centers) < k:
            best: tuple[float, np.ndarray, np.ndarray] | None = None
            for row in self._draw(self.weights * far, trials):
                center = self._row(row)
                left = np.minimum(far, self._distances(center))
                cost = float(self.weights @ left)
                if best is None or cost < best[0]:
                    best = cost, center, left
            assert best is not None
            far = best[2]
            centers = np.concatenate([centers, best[1]])
        return centers

    def _parallel(self, k: int) -> np.ndarray:
        """k-means||: a few rounds that draw many rows each, then ++ among those by their clusters'
        weights. Source: Bahmani et al., Scalable K-Means++, VLDB 2012."""
        centers = self._row(self._draw(self.weights, 1))
        far = self._distances(centers)
        for _ in range(_ROUNDS):
            mass = self.weights * far
            if not mass.sum() > 0:
                break
            chance = 2 * k * mass / mass.sum()
            picked = np.flatnonzero(self.rng.random(len(chance)) < chance)
            if len(picked):
                new = self._row(picked)
                far = np.minimum(far, self._distances(new))
                centers = np.concatenate([centers, new])
        if len(centers) <= k:
            return self._plusplus(k, centers)
        weights = np.zeros(len(centers))
        for where, block in self.rows.blocks():
            nearest(block, centers, weights=np.ascontiguousarray(self.weights[where]),
                    sums=np.zeros_like(centers), counts=weights, cosine=self.cosine,
                    threads=self.threads)  # fmt: skip
        candidates = Rows(centers, self.rows.dtype, centers.dtype)
        return _Chooser(candidates, weights, self.cosine, self.threads, self.rng)._plusplus(k, None)


def called(function: Callable[..., Any], rows: Rows, k: int, seed: int) -> Any:
    """What a function of the user's chooses: ``init(X, n_clusters, random_state=RandomState)``."""
    source = rows.source if rows.direct is None else rows.direct
    return function(source, k, random_state=np.random.RandomState(seed % 2**32))
