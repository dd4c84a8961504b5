"""What a Lloyd step needs to know of some rows: sums that can be added up over processes.

The centres after a step follow from sums alone, so parts of the data may lie anywhere::

    parts = [model.partial_stats(x) for x in ...]      # in other processes, on other machines
    model.update(merge(parts))                         # one exact step of all of them
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .data import Rows, unit
from .engine import nearest

__all__ = ["Statistics", "merge"]


@dataclass(eq=False)
class Statistics:
    """Sums over the rows that are nearest to each of k centres; all float64.

    Attributes
    ----------
    centers : ndarray (k, d)
        The centres that the rows were assigned to.
    sums, weights : ndarray (k, d), (k,)
        Weighted sums of the rows of each cluster, and of their weights.
    inertia : float
    rows : int
        How many rows there were, those of weight zero too.
    mean, spread : ndarray (d,)
        Weighted mean of the rows, and the weighted sum of squared differences from it.
    far_distances, far_labels, far_weights, far_rows : ndarray (m,), (m,), (m,), (m, d)
        The rows farthest from their centres, farthest first: clusters that are empty everywhere
        will move there. No more of them than this part has empty clusters.
    """

    centers: np.ndarray
    sums: np.ndarray
    weights: np.ndarray
    inertia: float
    rows: int
    mean: np.ndarray
    spread: np.ndarray
    far_distances: np.ndarray
    far_labels: np.ndarray
    far_weights: np.ndarray
    far_rows: np.ndarray

    def merge(self, *others: Statistics) -> Statistics:
        """The statistics of all these rows together; neither is changed."""
        return merge([self, *others])

    def step(self, fixed: np.ndarray | None = None, cosine: bool = False) -> np.ndarray:
        """The centres (k, d) after a Lloyd step, as float64; clusters without rows are relocated.

        Clusters that are empty take the rows farthest from their centres, one each; what then is
        still empty takes the heaviest cluster's centre. Source: scikit-learn's rule.
        """
        sums, weights = self.sums.copy(), self.weights.copy()
        keep = np.zeros(len(sums), bool) if fixed is None else fixed
        self._relocate(sums, weights, np.flatnonzero((weights == 0) & ~keep))
        full = weights > 0
        centers = np.empty_like(sums)
        centers[full] = sums[full] / weights[full, None]
        centers[~full] = centers[weights.argmax()]
        if cosine:
            centers = np.where(centers.any(axis=1, keepdims=True), unit(centers), self.centers)
        centers[keep] = self.centers[keep]
        return centers

    def _relocate(self, sums: np.ndarray, weights: np.ndarray, empty: np.ndarray) -> None:
        if not len(empty) or not len(self.far_distances) or self.far_distances[0] == 0:
            return
        for i, cluster in enumerate(empty[: len(self.far_distances)]):
            row, label = self.far_weights[i] * self.far_rows[i], self.far_labels[i]
            sums[label] -= row
            weights[label] -= self.far_weights[i]
            if weights[label] <= 1e-12 * self.weights[label]:  # what rounding left of nothing
                weights[label] = 0
            sums[cluster], weights[cluster] = row, self.far_weights[i]

    @property
    def variance(self) -> float:
        """Mean of the variances of the columns, by weight."""
        return float(self.spread.mean() / self.weights.sum())


def merge(parts: Iterable[Statistics]) -> Statistics:
    """Add up statistics of different rows, which were assigned to the same centres.

    The result depends on the order of the parts only in the last bits of the sums, and in which of
    two rows that are equally far is the farther one.

    Raises
    ------
    ValueError
        If there are none, or their centres differ.
    """
    parts = list(parts)
    if not parts:
        raise ValueError("there are no statistics to merge")
    first = parts[0]
    if any(not np.array_equal(part.centers, first.centers) for part in parts):
        raise ValueError("the statistics belong to different centers: they are of different steps")
    weights = np.sum([part.weights for part in parts], axis=0)
    mean, spread, mass = first.mean, first.spread, first.weights.sum()
    for part in parts[1:]:
        more = part.weights.sum()
        share = more / (mass + more) if more else 0.0
        gap = part.mean - mean
        mean, spread = mean + gap * share, spread + part.spread + gap * gap * (mass * share)
        mass += more
    far = np.concatenate([part.far_distances for part in parts])
    order = np.argsort(-far, kind="stable")[: int((weights == 0).sum())]
    return Statistics(
        first.centers,
        np.sum([part.sums for part in parts], axis=0),
        weights,
        float(sum(part.inertia for part in parts)),
        sum(part.rows for part in parts),
        mean,
        spread,
        far[order],
        np.concatenate([part.far_labels for part in parts])[order],
        np.concatenate([part.far_weights for part in parts])[order],
        np.concatenate([part.far_rows for part in parts])[order],
    )


def statistics_of(
    rows: Rows,
    weights: np.ndarray | None,
    centers: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    cosine: bool = False,
    threads: int = 0,
    moments: bool = True,
) -> Statistics:
    """The statistics of rows, read block by block. `labels` int32 (n,) is filled where given."""
    parts = []
    for where, block in rows.blocks():
        w = np.ones(len(block)) if weights is None else weights[where]
        part = _of_block(block, w, centers, cosine, threads, moments)
        if labels is not None:
            labels[where] = part[1]
        parts.append(part[0])
        if len(parts) == 16:
            parts = [merge(parts)]
    return merge(parts)


def _of_block(
    block: np.ndarray, w: np.ndarray, centers: np.ndarray, cosine: bool, threads: int, moments: bool
) -> tuple[Statistics, np.ndarray]:
    n, d = block.shape
    labels, distances = np.empty(n, np.int32), np.empty(n)
    sums, weights = np.zeros_like(centers), np.zeros(len(centers))
    inertia = nearest(block, centers, labels=labels, distances=distances, weights=w, sums=sums,
                      counts=weights, cosine=cosine, threads=threads)  # fmt: skip
    empty = int((weights == 0).sum())
    if empty:  # what rounding leaves of a row that lies on its centre is no distance
        lengths = np.asarray(block, np.float64)
        squares = 1.0 if cosine else (lengths * lengths).sum(axis=1)
        distances = np.where(distances > 1e-26 * squares, distances, 0.0)
    far = np.argsort(-np.where(w > 0, distances, -1), kind="stable")[:empty]
    far = far[w[far] > 0]
    exact = block[far].astype(np.float64)
    if cosine:
        exact = unit(exact)
    mean, spread = np.zeros(d), np.zeros(d)
    if moments and w.any():
        wide = unit(block.astype(np.float64)) if cosine else block.astype(np.float64)
        mean = w @ wide / w.sum()
        spread = w @ (wide - mean) ** 2
    return Statistics(centers, sums, weights, inertia, n, mean, spread, distances[far],
                      labels[far], w[far], exact), labels  # fmt: skip
